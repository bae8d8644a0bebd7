# JSON for shell scripts: builds, reads and prints one tree per namespace, in shell variables.
#
# Printing starts no process; only reading text does (`jshn -r`). A tree is never exported, so its
# size is not bound by what fits into an environment. Nothing here writes a file.
#
# The variables, each behind JSON_PREFIX, as `jshn -w` knows them:
#   JSON_CUR          the table or array that is open: J_V (the root), J_T<n> or J_A<n>
#   JSON_SEQ          the last <n>
#   K_<container>     its keys, a blank before each, in the order they came
#   <container>_<key> the value, or the name of the container that is the value
#   T_<container>_<key>  its type;  N_<container>_<key>  its name where that is not a shell word
#   U_<container>     the container around it;  C_<container>  how many elements an array has
# Locals are called _j_* so that they hide no variable a caller asks to be set.

_json_newline='
'
_json_tab='	'

_json_warn() {
	[ -n "$_json_no_warning" ] || echo "WARNING: $1" >&2
}

json_set_namespace() {
	[ -z "$2" ] || eval "$2=\$JSON_PREFIX"
	JSON_PREFIX=$1
}

# The key of $1 in $_j_key: the name itself, or with `_` for whatever no variable may hold.
_json_key() {
	case $1 in
		*[!a-zA-Z0-9_]*) ;;
		*) _j_key=$1; return ;;
	esac
	_j_key=
	_j_rest=$1
	while :; do
		_j_head=${_j_rest%%[!a-zA-Z0-9_]*}
		_j_key=$_j_key$_j_head
		[ "$_j_head" != "$_j_rest" ] || break
		_j_rest=${_j_rest#"$_j_head"?}
		_j_key=${_j_key}_
	done
}

# Two names may have one key (a-b and a.b): moves $_j_key on to the one of $1, or to the first that is free.
_json_slot() {
	while eval "_j_old=\${${JSON_PREFIX}N_${_j_cur}_$_j_key}" && [ -n "$_j_old" ] && [ "$_j_old" != "$1" ]; do
		_j_key=${_j_key}_
	done
}

# _json_put TYPE NAME VALUE: a member of the open table, or the next element of the open array.
_json_put() {
	local _j_cur _j_key _j_rest _j_head _j_old
	eval "_j_cur=\${${JSON_PREFIX}JSON_CUR}"
	[ -n "$_j_cur" ] || { json_init; _j_cur=J_V; }
	case $_j_cur in
		J_A*)
			eval "_j_key=\$((\${${JSON_PREFIX}C_$_j_cur:-0} + 1)); ${JSON_PREFIX}C_$_j_cur=\$_j_key; ${JSON_PREFIX}K_$_j_cur=\"\${${JSON_PREFIX}K_$_j_cur} \$_j_key\""
			;;
		*)
			_json_key "$2"
			_json_slot "$2"
			eval "_j_old=\${${JSON_PREFIX}T_${_j_cur}_$_j_key}"
			# A member given twice keeps its place and takes the new value.
			[ -n "$_j_old" ] || [ -z "$_j_key" ] || eval "${JSON_PREFIX}K_$_j_cur=\"\${${JSON_PREFIX}K_$_j_cur} \$_j_key\""
			[ "$_j_key" = "$2" ] || eval "${JSON_PREFIX}N_${_j_cur}_$_j_key=\$2"
			;;
	esac
	eval "${JSON_PREFIX}${_j_cur}_$_j_key=\$3; ${JSON_PREFIX}T_${_j_cur}_$_j_key=\$1"
}

# _json_open TYPE LETTER NAME: puts a container and makes it the open one.
_json_open() {
	local _j_new _j_outer
	eval "_j_outer=\${${JSON_PREFIX}JSON_CUR}"
	[ -n "$_j_outer" ] || { json_init; _j_outer=J_V; }
	eval "${JSON_PREFIX}JSON_SEQ=\$((\${${JSON_PREFIX}JSON_SEQ:-0} + 1)); _j_new=J_$2\${${JSON_PREFIX}JSON_SEQ}"
	_json_put "$1" "$3" "$_j_new"
	eval "${JSON_PREFIX}U_$_j_new=\$_j_outer; ${JSON_PREFIX}K_$_j_new=; ${JSON_PREFIX}JSON_CUR=\$_j_new"
}

_json_close() {
	local _j_outer
	eval "_j_outer=\${${JSON_PREFIX}JSON_CUR:-J_V}"
	eval "${JSON_PREFIX}JSON_CUR=\${${JSON_PREFIX}U_$_j_outer:-J_V}"
}

json_add_object() { _json_open object T "$1"; }
json_close_object() { _json_close; }
json_add_array() { _json_open array A "$1"; }
json_close_array() { _json_close; }
json_add_string() { _json_put string "$1" "$2"; }
json_add_int() { _json_put int "$1" "$2"; }
json_add_boolean() { _json_put boolean "$1" "$2"; }
json_add_double() { _json_put double "$1" "$2"; }
json_add_null() { _json_put null "$1" ""; }

# _json_push TYPE VALUE: an element; nothing where no array is open.
_json_push() {
	local _j_cur
	eval "_j_cur=\${${JSON_PREFIX}JSON_CUR}"
	case $_j_cur in
		J_A*) _json_put "$1" "" "$2" ;;
		*) _json_warn "Not in an array"; return 1 ;;
	esac
}

json_push_string() { _json_push string "$1"; }
json_push_int() { _json_push int "$1"; }
json_push_boolean() { _json_push boolean "$1"; }
json_push_double() { _json_push double "$1"; }
json_push_null() { _json_push null ""; }

# json_add_fields NAME:TYPE=VALUE ...; without a type, a string.
json_add_fields() {
	local _j_field _j_name
	for _j_field in "$@"; do
		_j_name=${_j_field%%=*}
		_j_field=${_j_field#*=}
		case $_j_name in
			*:*) _json_put "${_j_name#*:}" "${_j_name%%:*}" "$_j_field" ;;
			*) _json_put string "$_j_name" "$_j_field" ;;
		esac
	done
}

json_init() {
	json_cleanup
	eval "${JSON_PREFIX}JSON_CUR=J_V; ${JSON_PREFIX}JSON_SEQ=0; ${JSON_PREFIX}K_J_V="
}

json_cleanup() {
	local _j_cur
	eval "_j_cur=\${${JSON_PREFIX}JSON_CUR}"
	[ -n "$_j_cur" ] || return 0
	_json_forget J_V
	unset "${JSON_PREFIX}JSON_CUR" "${JSON_PREFIX}JSON_SEQ"
}

_json_forget() {
	local _j_keys _j_key _j_value
	eval "_j_keys=\${${JSON_PREFIX}K_$1}"
	local IFS=' '
	for _j_key in $_j_keys; do
		eval "_j_value=\${${JSON_PREFIX}T_$1_$_j_key}"
		case $_j_value in
			object|array) eval "_json_forget \"\${${JSON_PREFIX}$1_$_j_key}\"" ;;
		esac
		unset "${JSON_PREFIX}$1_$_j_key" "${JSON_PREFIX}T_$1_$_j_key" "${JSON_PREFIX}N_$1_$_j_key"
	done
	unset "${JSON_PREFIX}K_$1" "${JSON_PREFIX}U_$1" "${JSON_PREFIX}C_$1"
}

json_load() { eval "$(jshn -r "$1")"; }
json_load_file() { eval "$(jshn -R "$1")"; }

json_compact() { JSON_NONEWLINE=1 JSON_INDENT=; }
json_pretty() { JSON_NONEWLINE= JSON_INDENT=1; }

# json_dump [-n] [-i]: without a line end, on several lines.
json_dump() {
	local _j_text='' _j_indent=$JSON_INDENT _j_end="$_json_newline"
	[ -z "$JSON_NONEWLINE" ] || _j_end=
	while [ $# -gt 0 ]; do
		case $1 in
			-n) _j_end= ;;
			-i) _j_indent=1 ;;
		esac
		shift
	done
	_json_text
	printf '%s%s' "$_j_text" "$_j_end"
}

# The whole tree as text in $_j_text; on several lines if $_j_indent.
_json_text() {
	if [ -n "$_j_indent" ]; then
		_json_print J_V object "$_json_newline$_json_tab"
	else
		_json_print J_V object ''
	fi
}

# _json_print CONTAINER TYPE SEPARATOR: text of a container in $_j_text. SEPARATOR is the line end
# and tabs before a member, nothing for one line.
_json_print() {
	local _j_out='' _j_keys='' _j_key='' _j_type='' _j_value='' _j_name='' _j_comma=''
	local IFS=' '
	eval "_j_keys=\${${JSON_PREFIX}K_$1}"
	for _j_key in $_j_keys; do
		eval "_j_type=\${${JSON_PREFIX}T_$1_$_j_key} _j_value=\${${JSON_PREFIX}$1_$_j_key} _j_name=\${${JSON_PREFIX}N_$1_$_j_key:-\$_j_key}"
		case $_j_type in
			string) _json_quote "$_j_value" ;;
			object|array) _json_print "$_j_value" "$_j_type" "${3:+$3$_json_tab}" ;;
			int) _json_integer "$_j_value" ;;
			boolean)
				_json_integer "$_j_value"
				case $_j_text in 0) _j_text=false ;; *) _j_text=true ;; esac
				;;
			double) _json_number "$_j_value" ;;
			null) _j_text=null ;;
			*) continue ;;
		esac
		_j_value=$_j_text
		if [ "$2" = object ]; then
			_json_quote "$_j_name"
			_j_value="$_j_text: $_j_value"
		fi
		_j_out="$_j_out$_j_comma${3:- }$_j_value"
		_j_comma=,
	done
	_j_name=' '
	[ -z "$3" ] || _j_name=${3%"$_json_tab"}
	[ -n "$_j_comma$3" ] || _j_out=
	case $2 in
		object) _j_text="{$_j_out$_j_name}" ;;
		*) _j_text="[$_j_out$_j_name]" ;;
	esac
}

# The JSON string of $1 in $_j_text. Bytes from 0x80 on pass as they are: UTF-8 needs no escape.
_json_quote() {
	case $1 in
		*[\\\"]*|*[[:cntrl:]]*) ;;
		*) _j_text="\"$1\""; return ;;
	esac
	local _j_rest="$1" _j_head='' _j_char='' _j_escaped=''
	while :; do
		_j_head=${_j_rest%%[\\\"[:cntrl:]]*}
		_j_escaped=$_j_escaped$_j_head
		[ "$_j_head" != "$_j_rest" ] || break
		_j_rest=${_j_rest#"$_j_head"}
		_j_char=${_j_rest%"${_j_rest#?}"}
		_j_rest=${_j_rest#?}
		case $_j_char in
			\\) _j_escaped="$_j_escaped\\\\" ;;
			\") _j_escaped="$_j_escaped\\\"" ;;
			"$_json_newline") _j_escaped="$_j_escaped\\n" ;;
			"$_json_tab") _j_escaped="$_j_escaped\\t" ;;
			*)
				_j_head=$(printf '%04x' "'$_j_char")
				case $_j_head in
					00[01]?) _j_escaped="$_j_escaped\\u$_j_head" ;;
					*) _j_escaped=$_j_escaped$_j_char ;;
				esac
				;;
		esac
	done
	_j_text="\"$_j_escaped\""
}

# The integer that $1 begins with in $_j_text, as C's atoll reads it: 0 where there is none.
_json_integer() {
	case $1 in
		0|[1-9]|[1-9][0-9]|[1-9][0-9][0-9]|[1-9][0-9][0-9][0-9]) _j_text=$1; return ;;
	esac
	local _j_digits="${1#"${1%%[![:space:]]*}"}" _j_sign=''
	case $_j_digits in
		-*) _j_sign=-; _j_digits=${_j_digits#-} ;;
		+*) _j_digits=${_j_digits#+} ;;
	esac
	_j_digits=${_j_digits%%[!0-9]*}
	_j_digits=${_j_digits#"${_j_digits%%[!0]*}"}
	if [ ${#_j_digits} -gt 19 ]; then
		_j_digits=9223372036854775807
	fi
	_j_text=${_j_digits:+$_j_sign}${_j_digits:-0}
}

# The number $1 in $_j_text; what JSON could not hold is 0.
_json_number() {
	local _j_whole="${1%%[.eE]*}" _j_fraction=''
	_j_fraction=${1#"$_j_whole"}
	_json_integer "$_j_whole"
	case $_j_whole in
		-0) _j_text=-0 ;;
	esac
	case $_j_fraction in
		'') _j_text=$_j_text.0 ;;
		.*[!0-9]*|.)
			case $_j_fraction in
				.[0-9]*[eE][0-9]|.[0-9]*[eE][0-9][0-9]|.[0-9]*[eE][-+][0-9]|.[0-9]*[eE][-+][0-9][0-9])
					_j_text=$_j_text$_j_fraction ;;
				*) _j_text=$_j_text.0 ;;
			esac
			;;
		.*) _j_text=$_j_text$_j_fraction ;;
		[eE][0-9]|[eE][0-9][0-9]|[eE][-+][0-9]|[eE][-+][0-9][0-9]) _j_text=$_j_text$_j_fraction ;;
		*) _j_text=$_j_text.0 ;;
	esac
}

# _json_find NAME: type and value of a member of the open container in $_j_type and $_j_value.
_json_find() {
	local _j_cur _j_key _j_rest _j_head _j_old
	eval "_j_cur=\${${JSON_PREFIX}JSON_CUR:-J_V}"
	_json_key "$1"
	# The key itself is a name too: scripts ask for what json_get_keys gave them.
	[ "$_j_key" = "$1" ] || _json_slot "$1"
	eval "_j_type=\${${JSON_PREFIX}T_${_j_cur}_$_j_key} _j_value=\${${JSON_PREFIX}${_j_cur}_$_j_key}"
	[ -n "$_j_type" ]
}

# json_get_var VARIABLE NAME [DEFAULT]: the default also stands for a value that is empty.
json_get_var() {
	local _j_type _j_value
	_json_find "$2"
	eval "$1=\${_j_value:-\$3}"
	[ -n "$_j_type" ] || [ $# -gt 2 ]
}

# json_get_vars NAME[:DEFAULT] ...
json_get_vars() {
	local _j_want
	for _j_want in "$@"; do
		case $_j_want in
			*:*) json_get_var "${_j_want%%:*}" "${_j_want%%:*}" "${_j_want#*:}" ;;
			*) json_get_var "$_j_want" "$_j_want" ;;
		esac
	done
}

json_get_type() {
	local _j_type _j_value
	_json_find "$2"
	eval "$1=\$_j_type"
	[ -n "$_j_type" ]
}

json_is_a() {
	local _j_type _j_value
	_json_find "$1"
	[ "$_j_type" = "$2" ]
}

# _json_container [NAME]: the container to look into in $_j_from, the open one without a name.
_json_container() {
	local _j_type _j_value
	if [ -z "$1" ]; then
		eval "_j_from=\${${JSON_PREFIX}JSON_CUR:-J_V}"
		return 0
	fi
	_json_find "$1"
	_j_from=$_j_value
	case $_j_type in object|array) ;; *) return 1 ;; esac
}

# json_get_keys VARIABLE [NAME]
json_get_keys() {
	local _j_from
	eval "$1="
	_json_container "$2" || return 1
	eval "$1=\${${JSON_PREFIX}K_$_j_from# }"
}

# json_get_values VARIABLE [NAME]: a blank between two.
json_get_values() {
	local _j_from _j_keys _j_key _j_all='' _j_one
	eval "$1="
	_json_container "$2" || return 1
	eval "_j_keys=\${${JSON_PREFIX}K_$_j_from}"
	local IFS=' '
	for _j_key in $_j_keys; do
		eval "_j_one=\${${JSON_PREFIX}${_j_from}_$_j_key}"
		_j_all=${_j_all:+$_j_all }$_j_one
	done
	eval "$1=\$_j_all"
}

# json_get_index VARIABLE: which element of its array the open container is.
json_get_index() {
	local _j_outer
	eval "_j_outer=\${${JSON_PREFIX}JSON_CUR:-J_V}"
	eval "_j_outer=\${${JSON_PREFIX}U_$_j_outer}"
	case $_j_outer in
		J_A*) eval "$1=\${${JSON_PREFIX}C_$_j_outer:-0}" ;;
		*) _json_warn "Not inside an array"; return 1 ;;
	esac
}

# json_select [NAME | ..]: opens a container that is there; the root without a name.
json_select() {
	local _j_type _j_value
	case $1 in
		'') eval "${JSON_PREFIX}JSON_CUR=J_V" ;;
		..) _json_close ;;
		*)
			_json_find "$1"
			case $_j_type in
				object|array) eval "${JSON_PREFIX}JSON_CUR=\$_j_value" ;;
				*) _json_warn "Variable '$1' does not exist or is not an array/object"; return 1 ;;
			esac
			;;
	esac
}

# json_for_each_item FUNCTION NAME ARGUMENT...: calls FUNCTION VALUE KEY ARGUMENT... for each
# member, with that container open; for anything else once, with an empty key. FUNCTION may hold
# arguments of its own.
json_for_each_item() {
	[ $# -ge 2 ] || return 0
	local _j_function="$1" _j_name="$2" _j_type _j_value _j_keys _j_each _j_item
	shift 2
	_json_find "$_j_name"
	case $_j_type in
		object|array)
			json_select "$_j_name"
			json_get_keys _j_keys
			for _j_each in $_j_keys; do
				json_get_var _j_item "$_j_each"
				eval "$_j_function \"\$_j_item\" \"\$_j_each\" \"\$@\""
			done
			json_select ..
			;;
		*) eval "$_j_function \"\$_j_value\" \"\" \"\$@\"" ;;
	esac
}
