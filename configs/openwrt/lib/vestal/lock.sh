# One run of a script at a time.
#
# The lock is the identity of its holder (pid and start time) in a file; flock guards only the moment
# of looking and writing. So no child inherits anything that it could keep the lock with, a holder
# that dies has given it back, and nothing needs to be cleaned up. A child of the holder that calls
# the same script is let through: its parent waits for it.

# How long procd_lock waits for another run of the same script, in seconds.
PROCD_LOCK_TIMEOUT=${PROCD_LOCK_TIMEOUT:-120}

# The start time of process $1 in $_procd_birth; empty where it is not there or has ended.
_procd_birth_of() {
	local _stat
	_procd_birth=
	{ read -r _stat < "/proc/$1/stat"; } 2>/dev/null || return 0
	# The name in brackets may hold blanks; the start time is the 20th field behind it.
	set -f
	set -- ${_stat##*) }
	set +f
	[ "$1" != Z ] || return 0
	shift 19
	_procd_birth=$1
}

procd_lock() {
	local _procd_name _procd_birth _mine _file _holder _waited=0 _folder="$IPKG_INSTROOT/var/lock"
	_procd_script_name
	[ "$_procd_name" != "$_procd_locked" ] || return 0
	_procd_birth_of $$
	_mine="$$ ${_procd_birth:-0}"
	_file=$_folder/procd_$_procd_name.lock
	[ -d "$_folder" ] || mkdir -p "$_folder"
	# `exec` would end the shell where the file can't be written.
	if ! { true >> "$_file"; } 2>/dev/null; then
		echo "$_procd_name: can't write the lock $_file: going on without it" >&2
		return 0
	fi
	while :; do
		exec 9<>"$_file"
		flock 9
		_holder=
		read -r _holder <&9
		if [ "$_holder" = "$_mine" ] || ! _procd_alive $_holder; then
			echo "$_mine" > "$_file"
			exec 9>&-
			_procd_locked=$_procd_name
			export PROCD_LOCK_HOLDER="$_procd_name $_mine"
			return 0
		fi
		exec 9>&-
		[ "$PROCD_LOCK_HOLDER" != "$_procd_name $_holder" ] || return 0
		if [ "$_waited" -ge $((PROCD_LOCK_TIMEOUT * 10)) ]; then
			echo "$_procd_name: process ${_holder% *} still works on this service after $PROCD_LOCK_TIMEOUT s, the limit of PROCD_LOCK_TIMEOUT: end it or call again later" >&2
			exit 1
		fi
		if sleep 0.1 2>/dev/null; then
			_waited=$((_waited + 1))
		else
			sleep 1
			_waited=$((_waited + 10))
		fi
	done
}

# _procd_alive PID BIRTH: whether the process with this start time is there.
_procd_alive() {
	local _procd_birth
	[ -n "$1" ] || return 1
	if [ "$2" = 0 ]; then
		kill -0 "$1" 2>/dev/null
		return
	fi
	_procd_birth_of "$1"
	[ "$_procd_birth" = "$2" ]
}
