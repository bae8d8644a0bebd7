# What init scripts and hooks use: lists in variables, configuration in variables, accounts.
#
# Configuration is read in one process for a whole package (`uci export`, whose text is calls of
# package, config, option and list) and kept in CONFIG_<section>_<option>. Nothing here writes a
# configuration file; lib/config/uci.sh does.

N='
'
_C=0
NO_EXPORT=1
LOAD_STATE=1
LIST_SEP=' '

# debug COMMAND: what DEBUG says is run in front of it, nothing otherwise.
debug() { ${DEBUG:-:} "$@"; }

# append VARIABLE VALUE [SEPARATOR]
append() {
	eval "$1=\"\${$1}\${$1:+\${2:+\${3- }}}\$2\""
	[ -n "$NO_EXPORT" ] || export "$1"
}

# prepend VARIABLE VALUE [SEPARATOR]
prepend() {
	eval "$1=\"\$2\${$1:+\${2:+\${3- }}}\${$1}\""
	[ -n "$NO_EXPORT" ] || export "$1"
}

# list_contains VARIABLE WORD
list_contains() {
	local _l_words
	eval "_l_words=\" \$$1 \""
	case $_l_words in
		*" $2 "*) return 0 ;;
	esac
	return 1
}

# list_remove VARIABLE WORD: every occurrence.
list_remove() {
	local _l_words _l_word _l_kept=
	eval "_l_words=\$$1"
	for _l_word in $_l_words; do
		[ "$_l_word" = "$2" ] || _l_kept="${_l_kept:+$_l_kept }$_l_word"
	done
	eval "$1=\$_l_kept"
}

# list_foreach VARIABLE FUNCTION ARGUMENT...: calls FUNCTION WORD ARGUMENT... for each word.
list_foreach() {
	local _l_words _l_word _l_function="$2"
	eval "_l_words=\$$1"
	shift 2
	for _l_word in $_l_words; do
		eval "$_l_function \"\$_l_word\" \"\$@\""
	done
}

# The callbacks of config_load, which a script may define again.
reset_cb() {
	config_cb() { return 0; }
	option_cb() { return 0; }
	list_cb() { return 0; }
}
reset_cb

package() { return 0; }

# config TYPE [NAME]: the section that following options belong to.
config() {
	CONFIG_NUM_SECTIONS=$((CONFIG_NUM_SECTIONS + 1))
	CONFIG_SECTION=${2:-cfg$CONFIG_NUM_SECTIONS}
	CONFIG_SECTIONS="${CONFIG_SECTIONS:+$CONFIG_SECTIONS }$CONFIG_SECTION"
	config_set "$CONFIG_SECTION" TYPE "$1"
	[ -n "$NO_CALLBACK" ] || config_cb "$1" "$CONFIG_SECTION"
}

option() {
	local _c_name="$1"
	shift
	config_set "$CONFIG_SECTION" "$_c_name" "$*"
	[ -n "$NO_CALLBACK" ] || option_cb "$_c_name" "$*"
}

# One more value of a list: kept apart as <option>_ITEM<n>, and all together as the option.
list() {
	local _c_name="$1" _c_length
	shift
	config_get _c_length "$CONFIG_SECTION" "${_c_name}_LENGTH" 0
	[ "$_c_length" != 0 ] || append CONFIG_LIST_STATE "${CONFIG_SECTION}_$_c_name"
	_c_length=$((_c_length + 1))
	config_set "$CONFIG_SECTION" "${_c_name}_ITEM$_c_length" "$*"
	config_set "$CONFIG_SECTION" "${_c_name}_LENGTH" "$_c_length"
	append "CONFIG_${CONFIG_SECTION}_$_c_name" "$*" "$LIST_SEP"
	[ -n "$NO_CALLBACK" ] || list_cb "$_c_name" "$*"
}

# config_load PACKAGE. In an image that is being built there is none, unless UCI_CONFIG_DIR names one.
config_load() {
	[ -z "$IPKG_INSTROOT" ] || [ -n "$UCI_CONFIG_DIR" ] || return 0
	uci_load "$@"
}

# config_set SECTION OPTION VALUE; a name that no variable can have is left out.
config_set() {
	case $1$2 in
		*[!A-Za-z0-9_]*) return 0 ;;
	esac
	eval "CONFIG_$1_$2=\$3"
	[ -n "$NO_EXPORT" ] || export "CONFIG_$1_$2"
}

config_unset() { config_set "$1" "$2" ""; }

# config_get VARIABLE SECTION OPTION [DEFAULT], or config_get SECTION OPTION, which prints.
config_get() {
	case $2${3:-$1} in
		*[!A-Za-z0-9_]*) return 0 ;;
	esac
	if [ -z "$3" ]; then
		eval "printf '%s\\n' \"\${CONFIG_$1_$2:-\$4}\""
		return
	fi
	eval "$1=\${CONFIG_$2_$3:-\$4}"
	[ -n "$NO_EXPORT" ] || export "$1"
}

# The truth of $1 as 1 or 0 in $_c_bool, $2 for what is neither.
_config_bool() {
	case $1 in
		1|on|true|yes|enabled) _c_bool=1 ;;
		0|off|false|no|disabled) _c_bool=0 ;;
		*) _c_bool=$2 ;;
	esac
}

# get_bool VALUE [DEFAULT]: prints 1 or 0.
get_bool() {
	local _c_bool
	_config_bool "$1" "$2"
	printf '%s' "$_c_bool"
}

# config_get_bool VARIABLE SECTION OPTION [DEFAULT]
config_get_bool() {
	local _c_bool _c_value
	config_get _c_value "$2" "$3" "$4"
	_config_bool "$_c_value" "$4"
	eval "$1=\$_c_bool"
	[ -n "$NO_EXPORT" ] || export "$1"
}

# config_foreach FUNCTION [TYPE] ARGUMENT...: calls FUNCTION SECTION ARGUMENT... for each section.
config_foreach() {
	local _c_function="$1" _c_want="$2" _c_section _c_type
	shift $(($# < 2 ? $# : 2))
	for _c_section in $CONFIG_SECTIONS; do
		config_get _c_type "$_c_section" TYPE
		[ -z "$_c_want" ] || [ "$_c_type" = "$_c_want" ] || continue
		eval "$_c_function \"\$_c_section\" \"\$@\""
	done
}

# config_list_foreach SECTION OPTION FUNCTION ARGUMENT...: calls FUNCTION VALUE ARGUMENT...
config_list_foreach() {
	[ $# -ge 3 ] || return 0
	local _c_section="$1" _c_option="$2" _c_function="$3" _c_item _c_length _c_each=1
	shift 3
	config_get _c_length "$_c_section" "${_c_option}_LENGTH"
	while [ $_c_each -le "${_c_length:-0}" ]; do
		config_get _c_item "$_c_section" "${_c_option}_ITEM$_c_each"
		eval "$_c_function \"\$_c_item\" \"\$@\""
		_c_each=$((_c_each + 1))
	done
}

# include FOLDER: reads its *.sh.
include() {
	local _file
	for _file in "$1"/*.sh; do
		[ ! -f "$_file" ] || . "$_file"
	done
}

# The board's name, `generic` where nothing says it.
board_name() {
	if [ -e /tmp/sysinfo/board_name ]; then
		cat /tmp/sysinfo/board_name
	else
		echo generic
	fi
}

# cmdline_get_var NAME: the value on the kernel's command line.
cmdline_get_var() {
	local _word _words
	read -r _words < /proc/cmdline
	for _word in $_words; do
		case $_word in
			"$1"=*) printf '%s\n' "${_word#*=}"; return 0 ;;
		esac
	done
	return 1
}

# find_mtd_index NAME: the number of a flash partition.
find_mtd_index() {
	local _device _size _erase _rest
	while read -r _device _size _erase _rest; do
		if [ "$_rest" = "\"$1\"" ]; then
			_device=${_device#mtd}
			echo "${_device%:}"
			return 0
		fi
	done < /proc/mtd 2>/dev/null
	echo
}

# find_mtd_part NAME: its block device.
find_mtd_part() {
	local _index _prefix=/dev/mtdblock
	_index=$(find_mtd_index "$1")
	[ ! -d /dev/mtdblock ] || _prefix=/dev/mtdblock/
	echo "${_index:+$_prefix$_index}"
}

# _account_add FILE LINE: one more line, by replacing the file. One writer at a time.
_account_add() {
	local _file="$IPKG_INSTROOT/etc/$1"
	[ -f "$_file" ] || return 1
	(
		flock 9
		cp -p "$_file" "$_file.new" && printf '%s\n' "$2" >> "$_file.new" && mv "$_file.new" "$_file"
	) 9>>"$_file.lock"
}

# _account_find FILE NAME: its third field, the number, in $_account.
_account_find() {
	local _line _rest
	_account=
	[ -f "$IPKG_INSTROOT/etc/$1" ] || return 1
	while IFS= read -r _line; do
		case $_line in
			"$2":*)
				_rest=${_line#*:*:}
				_account=${_rest%%:*}
				return 0
				;;
		esac
	done < "$IPKG_INSTROOT/etc/$1"
	return 1
}

# _account_free FILE: a number from 32768 on that no line has, in $_account.
_account_free() {
	local _line _used=' ' _rest
	while IFS= read -r _line; do
		_rest=${_line#*:*:}
		_used="$_used${_rest%%:*} "
	done < "$IPKG_INSTROOT/etc/$1"
	_account=32768
	while :; do
		case $_used in
			*" $_account "*) _account=$((_account + 1)) ;;
			*) return 0 ;;
		esac
	done
}

group_exists() { local _account; _account_find group "$1"; }
user_exists() { local _account; _account_find passwd "$1"; }

# group_add NAME NUMBER
group_add() { _account_add group "$1:x:$2:"; }

# group_add_next NAME: prints the number of the group, a new one where there is none.
group_add_next() {
	local _account
	if ! _account_find group "$1"; then
		_account_free group
		group_add "$1" "$_account"
	fi
	echo "$_account"
}

# group_add_user GROUP USER
group_add_user() {
	local _file="$IPKG_INSTROOT/etc/group"
	[ -f "$_file" ] || return 1
	(
		flock 9
		cp -p "$_file" "$_file.new" && _group_with "$1" "$2" < "$_file" > "$_file.new" && mv "$_file.new" "$_file"
	) 9>>"$_file.lock"
}

# _group_with GROUP USER: prints the file with the user in that group.
_group_with() {
	local _line
	while IFS= read -r _line; do
		case $_line in
			"$1":*)
				case ,${_line##*:}, in
					*",$2,"*) ;;
					,,) _line=$_line$2 ;;
					*) _line=$_line,$2 ;;
				esac
				;;
		esac
		printf '%s\n' "$_line"
	done
}

# user_add NAME [NUMBER] [GROUP-NUMBER] [DESCRIPTION] [HOME] [SHELL]
user_add() {
	local _account="$2"
	[ -n "$_account" ] || _account_free passwd
	_account_add passwd "$1:x:$_account:${3:-$_account}:${4:-$1}:${5:-/var/run/$1}:${6:-/bin/false}" || return 1
	[ ! -f "$IPKG_INSTROOT/etc/shadow" ] || _account_add shadow "$1:x:0:0:99999:7:::"
}

. "$IPKG_INSTROOT/lib/config/uci.sh"
