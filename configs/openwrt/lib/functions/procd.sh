# Builds the message of a service and hands it to the `service` object: one process for all of it.
#
# Every procd_* function works in the JSON namespace `procd`, so that what a script builds beside
# it is not touched; the callbacks service_triggers, service_data and validations run inside that
# namespace, as validate_data's output and scripts that add members of their own expect.
# Sourcing this file takes no lock and starts no process.

. "$IPKG_INSTROOT/usr/share/libubox/jshn.sh"
. "$IPKG_INSTROOT/lib/vestal/lock.sh"

# Milliseconds between an event and its script; 0 leaves it to the receiver.
PROCD_RELOAD_DELAY=1000
# Longer messages go through standard input: no single argument may be longer than 128 KiB.
_PROCD_ARGUMENT_MAX=100000
_PROCD_SERVICE=
_procd_trigger_open=0

# _procd_in FUNCTION ARGUMENT...: calls it in the namespace, and puts the caller's back.
_procd_in() {
	local _procd_outer="$JSON_PREFIX" _procd_code
	JSON_PREFIX=procd
	"$@"
	_procd_code=$?
	JSON_PREFIX=$_procd_outer
	return $_procd_code
}

# The name of the script in /etc/init.d, behind whatever link it was called by, in $_procd_name.
_procd_script_name() {
	_procd_name=${initscript:-$0}
	[ ! -L "$_procd_name" ] || _procd_name=$(readlink "$_procd_name")
	_procd_name=${_procd_name##*/}
}

# _procd_ubus_call METHOD: sends the tree and forgets it.
_procd_ubus_call() {
	local _j_text='' _j_indent=$JSON_INDENT _code
	_json_text
	json_cleanup
	_procd_send "$1"
}

# _procd_send METHOD: sends $_j_text.
_procd_send() {
	[ -z "$PROCD_DEBUG" ] || printf '%s\n' "$_j_text" >&2
	if [ ${#_j_text} -gt $_PROCD_ARGUMENT_MAX ]; then
		printf '%s' "$_j_text" | ubus call service "$1" -
	else
		ubus call service "$1" "$_j_text"
	fi
}

_procd_open_service() {
	procd_lock
	_PROCD_SERVICE=$1
	_PROCD_INSTANCE_SEQ=0
	_procd_rules=
	_procd_trigger_open=0
	json_init
	json_add_string name "$1"
	[ -z "$2" ] || json_add_string script "$2"
	json_add_object instances
}

_procd_close_service() {
	json_close_object
	_procd_open_trigger
	service_triggers
	_procd_close_trigger
	_procd_add_checked
	if type service_data >/dev/null 2>&1; then
		json_add_object data
		service_data
		json_close_object
	fi
	_procd_ubus_call "${1:-set}"
}

# Elements of the open array.
_procd_add_array_data() {
	while [ $# -gt 0 ]; do
		_json_put string "" "$1"
		shift
	done
}

_procd_add_array() {
	json_add_array "$1"
	shift
	_procd_add_array_data "$@"
	json_close_array
}

# NAME=VALUE members of the open table, up to the first empty argument.
_procd_add_table_data() {
	while [ -n "$1" ]; do
		case $1 in
			*=*) _json_put string "${1%%=*}" "${1#*=}" ;;
			*) _json_put string "$1" "" ;;
		esac
		shift
	done
}

_procd_add_table() {
	json_add_object "$1"
	shift
	_procd_add_table_data "$@"
	json_close_object
}

_procd_open_instance() {
	_PROCD_INSTANCE_SEQ=$((_PROCD_INSTANCE_SEQ + 1))
	json_add_object "${1:-instance$_PROCD_INSTANCE_SEQ}"
	[ -z "$TRACE_SYSCALLS" ] || json_add_boolean trace 1
}

_procd_close_instance() {
	local _json_no_warning=1 _values
	if json_select respawn; then
		json_get_values _values
		if [ -z "$_values" ]; then
			_procd_respawn_defaults
			_procd_add_array_data $_procd_respawn
		fi
		json_select ..
	fi
	json_close_object
}

# The device's own threshold, timeout and retry in $_procd_respawn; asked for once.
_procd_respawn_defaults() {
	local _line _threshold=3600 _timeout=5 _retry=5 _shown
	[ -z "$_procd_respawn" ] || return 0
	_shown=$(uci -q show 'system.@service[0]' 2>/dev/null)
	while IFS= read -r _line; do
		case $_line in
			*.respawn_threshold=?*) _threshold=${_line#*=} ;;
			*.respawn_timeout=?*) _timeout=${_line#*=} ;;
			*.respawn_retry=?*) _retry=${_line#*=} ;;
		esac
	done <<-SHOWN
	$_shown
	SHOWN
	set -- "$_threshold" "$_timeout" "$_retry"
	for _line in "$@"; do
		_line=${_line#\'}
		_procd_respawn="${_procd_respawn:+$_procd_respawn }${_line%\'}"
	done
}

_procd_add_instance() {
	_procd_open_instance
	_procd_set_param command "$@"
	_procd_close_instance
}

# _procd_signal NAME: its number in $_procd_number, with or without SIG; a number is one already.
_procd_signal() {
	local _name="${1#SIG}" _known _each=0
	case $1 in
		''|*[!0-9]*) ;;
		*) _procd_number=$1; return 0 ;;
	esac
	for _known in HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT \
		CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH POLL PWR SYS; do
		_each=$((_each + 1))
		if [ "$_name" = "$_known" ]; then
			_procd_number=$_each
			return 0
		fi
	done
	case $_name in
		IOT) _procd_number=6 ;;
		IO) _procd_number=29 ;;
		CLD) _procd_number=17 ;;
		*) return 1 ;;
	esac
}

_procd_set_param() {
	local _type="$1" _procd_number
	shift
	case $_type in
		env|data|limits)
			_procd_add_table "$_type" "$@" ;;
		command|netdev|file|respawn|watch|watchdog)
			_procd_add_array "$_type" "$@" ;;
		error)
			_procd_add_array "$_type" "$1" ;;
		nice|term_timeout)
			json_add_int "$_type" "$1" ;;
		reload_signal)
			if _procd_signal "$1"; then
				json_add_int "$_type" "$_procd_number"
			else
				echo "procd_set_param reload_signal: there is no signal $1" >&2
			fi
			;;
		pidfile|user|group|seccomp|capabilities|facility|extroot|overlaydir|tmpoverlaysize)
			json_add_string "$_type" "$1" ;;
		stdout|stderr|no_new_privs)
			json_add_boolean "$_type" "$1" ;;
	esac
	return 0
}

_procd_append_param() {
	local _json_no_warning=1 _type="$1"
	if ! json_select "$_type"; then
		_procd_set_param "$@"
		return 0
	fi
	shift
	case $_type in
		env|data|limits)
			_procd_add_table_data "$@" ;;
		command|netdev|file|respawn|watch|watchdog)
			_procd_add_array_data "$@" ;;
		error)
			_procd_add_array_data "$1" ;;
	esac
	json_select ..
}

# NAME FLAG...; the arguments are split at blanks, as scripts keep lists of flags in variables.
_procd_add_jail() {
	local _flag
	json_add_object jail
	json_add_string name "$1"
	shift
	for _flag in $@; do
		case $_flag in
			log|ubus|udebug|procfs|sysfs|ronly|requirejail|netns|userns|cgroupsns)
				json_add_boolean "$_flag" 1 ;;
		esac
	done
	json_add_object mount
	json_close_object
	json_close_object
}

# _procd_mount_in_jail MODE PATH...: nothing where the instance has no jail.
_procd_mount_in_jail() {
	local _json_no_warning=1 _mode="$1" _path
	shift
	json_select jail || return 0
	if json_select mount; then
		for _path in $@; do
			json_add_string "$_path" "$_mode"
		done
		json_select ..
	fi
	json_select ..
}

_procd_add_jail_mount() { _procd_mount_in_jail 0 "$@"; }
_procd_add_jail_mount_rw() { _procd_mount_in_jail 1 "$@"; }

# _procd_reopen TYPE NAME: opens the container, which may be there already: then it is added to.
_procd_reopen() {
	local _json_no_warning=1
	json_select "$2" || "json_add_$1" "$2"
}

# Only the outermost of nested pairs opens and closes the array.
_procd_open_trigger() {
	_procd_trigger_open=$((_procd_trigger_open + 1))
	[ "$_procd_trigger_open" -gt 1 ] || _procd_reopen array triggers
}

_procd_close_trigger() {
	_procd_trigger_open=$((_procd_trigger_open - 1))
	[ "$_procd_trigger_open" -ge 1 ] || json_close_array
}

# The array `validate` stands beside `triggers`, which is open whenever this is called.
_procd_open_validate() {
	json_select ..
	_procd_reopen array validate
}

_procd_close_validate() {
	json_close_array
	json_select triggers
}

# A function that calls uci_validate_section with an empty section adds its rules.
_procd_add_validation() {
	_procd_open_validate
	$@
	_procd_close_validate
}

_procd_add_delay() {
	[ "$PROCD_RELOAD_DELAY" -le 0 ] || json_add_int "" "$PROCD_RELOAD_DELAY"
}

# _procd_add_equal_trigger EVENT VARIABLE VALUE COMMAND...
_procd_add_equal_trigger() {
	json_add_array
	_procd_add_array_data "$1"
	json_add_array
	_procd_add_array_data if
	_procd_add_array "" eq "$2" "$3"
	shift 3
	_procd_add_array "" run_script "$@"
	json_close_array
	_procd_add_delay
	json_close_array
}

# EVENT VALUE COMMAND...
_procd_add_config_trigger() {
	local _event="$1"
	shift
	_procd_add_equal_trigger "$_event" package "$@"
}

_procd_add_interface_trigger() {
	local _event="$1"
	shift
	_procd_add_equal_trigger "$_event" interface "$@"
}

_procd_add_data_trigger() {
	local _event="$1"
	shift
	_procd_add_equal_trigger "$_event" name "$@"
}

# EVENT ACTION MOUNT-POINT...
_procd_add_mount_trigger() {
	local _procd_name _action="$2" _several=
	_procd_script_name
	json_add_array
	_procd_add_array_data "$1"
	shift 2
	json_add_array
	_procd_add_array_data if
	if [ -n "$2" ]; then
		_several=1
		json_add_array
		_procd_add_array_data or
	fi
	while [ -n "$1" ]; do
		_procd_add_array "" eq target "$1"
		shift
	done
	[ -z "$_several" ] || json_close_array
	_procd_add_array "" run_script "/etc/init.d/$_procd_name" $_action
	json_close_array
	_procd_add_delay
	json_close_array
}

# EVENT MILLISECONDS COMMAND...: without a condition.
_procd_add_raw_trigger() {
	local _delay="$2"
	json_add_array
	_procd_add_array_data "$1"
	shift 2
	json_add_array
	_procd_add_array "" run_script "$@"
	json_close_array
	json_add_int "" "$_delay"
	json_close_array
}

_procd_add_reload_trigger() {
	local _procd_name _package
	_procd_script_name
	_procd_open_trigger
	for _package in "$@"; do
		_procd_add_config_trigger config.change "$_package" "/etc/init.d/$_procd_name" reload
	done
	_procd_close_trigger
}

_procd_add_reload_interface_trigger() {
	local _procd_name
	_procd_script_name
	_procd_open_trigger
	_procd_add_interface_trigger "interface.*" "$1" "/etc/init.d/$_procd_name" reload
	_procd_close_trigger
}

_procd_add_reload_data_trigger() {
	local _procd_name _each
	_procd_script_name
	_procd_open_trigger
	for _each in "$@"; do
		_procd_add_data_trigger service.data.update "$_each" "/etc/init.d/$_procd_name" reload
	done
	_procd_close_trigger
}

# The mount points of fstab that hold the paths, sorted.
procd_get_mountpoints() {
	(
		config_load fstab
		for _path in "$@"; do
			config_foreach _procd_print_mount_of mount "$_path"
		done
	) | sort -u
}

_procd_print_mount_of() {
	local _target
	config_get _target "$1" target
	_target=${_target%/}/
	case ${2%/}/ in
		"$_target"*) echo "${_target%/}" ;;
	esac
}

# ACTION PATH...
_procd_add_action_mount_trigger() {
	local _action="$1" _points
	shift
	_points=$(procd_get_mountpoints "$@")
	set -- $_points
	[ $# -gt 0 ] || return 0
	_procd_open_trigger
	_procd_add_mount_trigger mount.add "$_action" "$@"
	_procd_close_trigger
}

_procd_add_reload_mount_trigger() { _procd_add_action_mount_trigger reload "$@"; }
_procd_add_restart_mount_trigger() { _procd_add_action_mount_trigger restart "$@"; }

# SERVICE [INSTANCE]: the status of the call, so that "there is no such service" can be told.
_procd_kill() {
	json_init
	[ -z "$1" ] || json_add_string name "$1"
	[ -z "$2" ] || json_add_string instance "$2"
	_procd_ubus_call delete
}

# SERVICE [INSTANCE] [SIGNAL]
_procd_send_signal() {
	local _procd_number=
	[ -z "$3" ] || _procd_signal "$3" || return 1
	json_init
	json_add_string name "$1"
	case $2 in
		''|'*') ;;
		*) json_add_string instance "$2" ;;
	esac
	[ -z "$_procd_number" ] || json_add_int signal "$_procd_number"
	_procd_ubus_call signal
}

_procd_set_config_changed() {
	json_init
	json_add_string type config.change
	json_add_object data
	json_add_string package "$1"
	json_close_object
	_procd_ubus_call event
}

# _procd_list SERVICE: what `list` says of it.
_procd_list() {
	local _j_text=
	[ -z "$1" ] || _json_quote "$1"
	_j_text="{${1:+ \"name\": $_j_text }}"
	_procd_send list
}

# SERVICE [INSTANCE]: the first that is listed decides.
procd_running() {
	local _instance='*'
	case $2 in
		''|'*') ;;
		*) _instance="'$2'" ;;
	esac
	[ "$(_procd_list "$1" | jsonfilter -l 1 -e "@['$1'].instances[$_instance].running")" = true ]
}

# SERVICE [INSTANCE]
_procd_status() {
	local _listed _data _states _state _total=0 _running=0 _instance='*'
	_listed=$(_procd_list "$1")
	_data=$(jsonfilter -s "${_listed:-{\}}" -e "@[\"$1\"]")
	if [ -z "$_data" ]; then
		echo inactive
		return 3
	fi
	_data=$(jsonfilter -s "$_data" -e '$.instances')
	if [ -z "$_data" ] && [ -z "$2" ]; then
		echo "active with no instances"
		return 0
	fi
	[ -z "$2" ] || _instance="\"$2\""
	_states=$(jsonfilter -s "${_data:-[]}" -e "\$[$_instance].running")
	for _state in $_states; do
		_total=$((_total + 1))
		[ "$_state" != true ] || _running=$((_running + 1))
	done
	if [ $_total -eq 0 ]; then
		echo "unknown instance $2"
		return 4
	elif [ $_running -eq 0 ]; then
		echo "not running"
		return 5
	elif [ $_running -eq $_total ]; then
		echo running
	else
		echo "running ($_running/$_total)"
	fi
}

# The namespace stays `procd` in between, so that json_add_* fill the table.
procd_open_data() {
	json_set_namespace procd _procd_data_outer
	_procd_reopen object data
}

procd_close_data() {
	json_close_object
	json_set_namespace "$_procd_data_outer"
}

# SERVICE PROTOCOL PORT TEXT...
procd_add_mdns_service() {
	local _text _any=
	json_add_object "${1}_$3"
	json_add_string service "_$1._$2.local"
	json_add_int port "$3"
	shift 3
	for _text in "$@"; do
		[ -n "$_text" ] || continue
		[ -n "$_any" ] || json_add_array txt
		_any=1
		json_add_string "" "$_text"
	done
	[ -z "$_any" ] || json_close_array
	json_close_object
}

procd_add_mdns() {
	procd_open_data
	json_add_object mdns
	procd_add_mdns_service "$@"
	json_close_object
	procd_close_data
}

# PACKAGE TYPE SECTION OPTION:RULE[:DEFAULT]...: sets a variable for each option.
# With an empty section validate_data prints the calls that add the rules to the message.
uci_validate_section() {
	local _validated _invalid
	_validated=$(validate_data "$@" 2>/dev/null)
	_invalid=$?
	eval "$_validated"
	[ -z "$3" ] || _procd_remember_rules "$@"
	[ "$_invalid" -eq 0 ] || validate_data "$@" >/dev/null
	return "$_invalid"
}

# _procd_remember_rules PACKAGE TYPE SECTION RULE...: what a start checks, once for each type, as calls that register it.
_procd_remember_rules() {
	local _call="validate_data '$1' '$2' ''" _rule
	[ -n "$_PROCD_SERVICE" ] || return 0
	case $_procd_rules in
		*"$_call"*) return 0 ;;
	esac
	shift 3
	for _rule in "$@"; do
		# A quote in a rule would end the word it stands in.
		case $_rule in
			*\'*) return 0 ;;
		esac
		_call="$_call '$_rule'"
	done
	_procd_rules="$_procd_rules$_call
"
}

# The rules that a script went by when it started, where it registers none: a changed file that they forbid is refused
# before the reload stops anything. Upstream's message has no such key, and its receiver would ignore it.
_procd_add_checked() {
	local _json_no_warning=1 _type
	[ -n "$_procd_rules" ] || return 0
	json_get_type _type validate
	[ -z "$_type" ] || return 0
	json_add_array checked
	eval "$(eval "$_procd_rules" 2>/dev/null)"
	json_close_array
}

# PACKAGE TYPE SECTION FUNCTION OPTION:RULE[:DEFAULT]...: the same with variables of its own, then
# FUNCTION SECTION STATUS.
uci_load_validate() {
	local _package="$1" _type="$2" _name="$3" _function="$4" _option _status=0
	shift 4
	for _option in "$@"; do
		eval "local ${_option%%:*}"
	done
	uci_validate_section "$_package" "$_type" "$_name" "$@" || _status=$?
	[ -n "$_function" ] || return "$_status"
	eval "$_function \"\$_name\" \"\$_status\""
}

procd_open_service() { _procd_in _procd_open_service "$@"; }
procd_close_service() { _procd_in _procd_close_service "$@"; }
procd_open_instance() { _procd_in _procd_open_instance "$@"; }
procd_close_instance() { _procd_in _procd_close_instance "$@"; }
procd_add_instance() { _procd_in _procd_add_instance "$@"; }
procd_set_param() { _procd_in _procd_set_param "$@"; }
procd_append_param() { _procd_in _procd_append_param "$@"; }
procd_add_jail() { _procd_in _procd_add_jail "$@"; }
procd_add_jail_mount() { _procd_in _procd_add_jail_mount "$@"; }
procd_add_jail_mount_rw() { _procd_in _procd_add_jail_mount_rw "$@"; }
procd_open_trigger() { _procd_in _procd_open_trigger "$@"; }
procd_close_trigger() { _procd_in _procd_close_trigger "$@"; }
procd_add_raw_trigger() { _procd_in _procd_add_raw_trigger "$@"; }
procd_add_config_trigger() { _procd_in _procd_add_config_trigger "$@"; }
procd_add_interface_trigger() { _procd_in _procd_add_interface_trigger "$@"; }
procd_add_mount_trigger() { _procd_in _procd_add_mount_trigger "$@"; }
procd_add_reload_trigger() { _procd_in _procd_add_reload_trigger "$@"; }
procd_add_reload_data_trigger() { _procd_in _procd_add_reload_data_trigger "$@"; }
procd_add_reload_interface_trigger() { _procd_in _procd_add_reload_interface_trigger "$@"; }
procd_add_action_mount_trigger() { _procd_in _procd_add_action_mount_trigger "$@"; }
procd_add_reload_mount_trigger() { _procd_in _procd_add_reload_mount_trigger "$@"; }
procd_add_restart_mount_trigger() { _procd_in _procd_add_restart_mount_trigger "$@"; }
procd_open_validate() { _procd_in _procd_open_validate "$@"; }
procd_close_validate() { _procd_in _procd_close_validate "$@"; }
procd_add_validation() { _procd_in _procd_add_validation "$@"; }
procd_kill() { _procd_in _procd_kill "$@"; }
procd_send_signal() { _procd_in _procd_send_signal "$@"; }
procd_set_config_changed() { _procd_in _procd_set_config_changed "$@"; }
