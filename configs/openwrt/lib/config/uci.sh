# Configuration for shell scripts: each function is one call of `uci`.
#
# UCI_CONFIG_DIR names another folder than /etc/config. An empty CONFIG_APPEND makes uci_load start
# from nothing; otherwise it adds to what is loaded.

CONFIG_APPEND=

_uci() { uci ${UCI_CONFIG_DIR:+-c "$UCI_CONFIG_DIR"} "$@"; }

# uci_load PACKAGE: sets the variables that functions.sh reads, and calls the callbacks.
uci_load() {
	local _u_name _u_text _u_code
	_C=0
	if [ -z "$CONFIG_APPEND" ]; then
		for _u_name in $CONFIG_LIST_STATE; do
			eval "CONFIG_$_u_name= CONFIG_${_u_name}_LENGTH="
		done
		CONFIG_LIST_STATE=
		CONFIG_SECTIONS=
		CONFIG_NUM_SECTIONS=0
		CONFIG_SECTION=
	fi
	_u_text=$(_uci ${LOAD_STATE:+-P /var/state} -S -n export "$1" 2>/dev/null)
	_u_code=$?
	[ $_u_code -ne 0 ] || eval "$_u_text"
	[ -z "$CONFIG_SECTION" ] || config_cb
	return $_u_code
}

# uci_set_default PACKAGE: the text on standard input, where the package says nothing yet.
uci_set_default() {
	_uci -q show "$1" > /dev/null && return 0
	_uci import "$1" && _uci commit "$1"
}

# uci_get PACKAGE [SECTION] [OPTION] [DEFAULT] [STATE-FOLDER]
uci_get() {
	local _u_code
	_uci ${5:+-P "$5"} -q get "$1${2:+.$2}${3:+.$3}"
	_u_code=$?
	[ $_u_code -eq 0 ] || [ -z "$4" ] || printf '%s\n' "$4"
	return $_u_code
}

# uci_add PACKAGE TYPE [SECTION]: its name is in CONFIG_SECTION then.
uci_add() {
	if [ -z "$3" ]; then
		CONFIG_SECTION=$(_uci add "$1" "$2")
	else
		_uci set "$1.$3=$2"
		CONFIG_SECTION=$3
	fi
}

uci_get_state() { uci_get "$1" "$2" "$3" "$4" /var/state; }
uci_set() { _uci set "$1.$2.$3=$4"; }
uci_add_list() { _uci add_list "$1.$2.$3=$4"; }
uci_remove() { _uci del "$1.$2${3:+.$3}"; }
uci_remove_list() { _uci del_list "$1.$2.$3=$4"; }
uci_rename() { _uci rename "$1.$2${4:+.$3}=${4:-$3}"; }
uci_revert() { _uci revert "$1${2:+.$2}${3:+.$3}"; }
uci_commit() { _uci commit ${1:+"$1"}; }
uci_revert_state() { _uci -P /var/state revert "$1${2:+.$2}${3:+.$3}"; }

uci_set_state() {
	[ $# -eq 4 ] || return 0
	_uci -P /var/state set "$1.$2${3:+.$3}=$4"
}

uci_toggle_state() {
	uci_revert_state "$1" "$2" "$3"
	uci_set_state "$1" "$2" "$3" "$4"
}
