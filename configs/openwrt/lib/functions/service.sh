# Starts and stops programs for scripts without USE_PROCD, with start-stop-daemon.
#
# What it goes by is in variables that a script may set:
#   SERVICE_DAEMONIZE   run the program in the background
#   SERVICE_WRITE_PID   write a pid file and find the process by it
#   SERVICE_USE_PID     find the process by the pid file that the program writes itself
#   SERVICE_PID_FILE    that file, /var/run/<name>.pid by default
#   SERVICE_MATCH_EXEC  find the process by its program (the default)
#   SERVICE_MATCH_NAME  find the process by its name
#   SERVICE_NAME        that name, the program's own by default
#   SERVICE_SIG         the signal; SERVICE_SIG_RELOAD and SERVICE_SIG_STOP are the defaults of two functions
#   SERVICE_STOP_TIME   seconds until a process that does not stop is killed
#   SERVICE_UID, SERVICE_GID  whom it runs as
#   SERVICE_DEBUG       print the command instead;  SERVICE_QUIET  print nothing

SERVICE_QUIET=1
SERVICE_SIG_RELOAD=HUP
SERVICE_SIG_STOP=TERM
SERVICE_STOP_TIME=5
SERVICE_MATCH_EXEC=1

# service -S|-C|-K PROGRAM ARGUMENT...: start it, ask whether it runs, send it the signal.
service() {
	local _s_mode="$1" _s_program="$2" _s_name _s_command
	case $_s_mode in
		-S) _s_command="-S${SERVICE_DAEMONIZE:+ -b}${SERVICE_WRITE_PID:+ -m}" ;;
		-C) _s_command="-K -t" ;;
		-K) _s_command="-K${SERVICE_SIG:+ -s $SERVICE_SIG}" ;;
		*) echo "service: there is no action '$_s_mode', only -S, -C and -K" >&2; return 1 ;;
	esac
	if [ -z "$_s_program" ]; then
		echo "service $_s_mode: the program is missing" >&2
		return 1
	elif [ ! -x "$_s_program" ]; then
		echo "service $_s_mode: '$_s_program' can't be executed" >&2
		return 1
	fi
	shift 2
	_s_name=${SERVICE_NAME:-${_s_program##*/}}
	_s_command="start-stop-daemon${SERVICE_QUIET:+ -q} $_s_command"
	if [ -n "$SERVICE_USE_PID$SERVICE_WRITE_PID$SERVICE_PID_FILE" ]; then
		_s_command="$_s_command -p ${SERVICE_PID_FILE:-/var/run/$_s_name.pid}"
	fi
	[ -z "$SERVICE_MATCH_NAME" ] || _s_command="$_s_command -n $_s_name"
	[ -z "$SERVICE_UID" ] || _s_command="$_s_command -c $SERVICE_UID${SERVICE_GID:+:$SERVICE_GID}"
	if [ -n "$SERVICE_MATCH_EXEC" ] || [ "$_s_mode" = -S ]; then
		_s_command="$_s_command -x $_s_program"
	fi
	${SERVICE_DEBUG:+echo} $_s_command ${1:+-- "$@"}
}

service_check() { service -C "$@"; }
service_start() { service -S "$@"; }
service_signal() { SERVICE_SIG=${SERVICE_SIG:-USR1} service -K "$@"; }
service_reload() { SERVICE_SIG=${SERVICE_SIG:-$SERVICE_SIG_RELOAD} service -K "$@"; }

# Asks it to stop, waits SERVICE_STOP_TIME seconds, kills it; 0 where it is gone at the end.
service_stop() {
	local _s_try=0
	SERVICE_SIG=${SERVICE_SIG:-$SERVICE_SIG_STOP} service -K "$@" || return 1
	while [ $_s_try -lt "$SERVICE_STOP_TIME" ]; do
		service -C "$@" || return 0
		sleep 1
		_s_try=$((_s_try + 1))
	done
	SERVICE_SIG=KILL service -K "$@"
	sleep 1
	! service -C "$@"
}
