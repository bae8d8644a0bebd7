# What the logical interfaces have: each function sets a variable and answers 0, or unsets it and answers 1.
#
# The state of all interfaces is asked for once (`ubus call network.interface dump`) and kept in
# __NETWORK_CACHE, also for scripts that this one starts; network_flush_cache asks again.

# _network_query VARIABLE INTERFACE PATH [SEPARATOR] [LIMIT]: what jsonfilter finds, of every interface where none is named.
_network_query() {
	local _n_found
	if [ -z "$__NETWORK_CACHE" ]; then
		_n_found=$(ubus call network.interface dump 2>&1)
		case $? in
			0) export __NETWORK_CACHE="$_n_found" ;;
			4) ;;
			*) printf '%s\n' "$_n_found" >&2 ;;
		esac
	fi
	_n_found=${__NETWORK_CACHE:-{\}}
	_n_found=$(jsonfilter ${4:+-F "$4"} ${5:+-l "$5"} -s "$_n_found" -e "$1=@.interface${2:+[@.interface='$2']}$3")
	if [ -z "$_n_found" ]; then
		unset "$1"
		return 1
	fi
	eval "$_n_found"
}

# _network_give VARIABLE WORDS
_network_give() {
	if [ -z "$2" ]; then
		unset "$1"
		return 1
	fi
	eval "export $1=\$2"
}

# _network_also VARIABLE INTERFACE INACTIVE PATH [LIMIT]: of what is active, else, if INACTIVE, of what is not.
_network_also() {
	_network_query "$1" "$2" "$4" "" "$5" && return 0
	case $3 in
		1|true) _network_query "$1" "$2" ".inactive$4" "" "$5" ;;
		*) return 1 ;;
	esac
}

network_flush_cache() { unset __NETWORK_CACHE; }

# network_get_*: VARIABLE INTERFACE
network_get_ipaddr() { _network_query "$1" "$2" "['ipv4-address'][0].address"; }
network_get_ipaddrs() { _network_query "$1" "$2" "['ipv4-address'][*].address"; }
network_get_subnet() { _network_query "$1" "$2" "['ipv4-address'][0]['address','mask']" "/"; }
network_get_subnets() { _network_query "$1" "$2" "['ipv4-address'][*]['address','mask']" "/ "; }
network_get_prefix6() { _network_query "$1" "$2" "['ipv6-prefix'][0]['address','mask']" "/"; }
network_get_prefixes6() { _network_query "$1" "$2" "['ipv6-prefix'][*]['address','mask']" "/ "; }
network_get_prefix_assignment6() { _network_query "$1" "$2" "['ipv6-prefix-assignment'][0]['address','mask']" "/"; }
network_get_prefix_assignments6() { _network_query "$1" "$2" "['ipv6-prefix-assignment'][*]['address','mask']" "/ "; }
network_get_protocol() { _network_query "$1" "$2" .proto; }
network_get_uptime() { _network_query "$1" "$2" .uptime; }
network_get_metric() { _network_query "$1" "$2" .metric; }
network_get_device() { _network_query "$1" "$2" .l3_device; }
network_get_physdev() { _network_query "$1" "$2" .device; }

network_get_ipaddr6() {
	_network_query "$1" "$2" "['ipv6-address'][0].address" ||
		_network_query "$1" "$2" "['ipv6-prefix-assignment'][0]['local-address'].address"
}

network_get_ipaddrs6() {
	local _n_own _n_assigned
	_network_query _n_own "$2" "['ipv6-address'][*].address"
	_network_query _n_assigned "$2" "['ipv6-prefix-assignment'][*]['local-address'].address"
	_network_give "$1" "$_n_own${_n_own:+${_n_assigned:+ }}$_n_assigned"
}

network_get_ipaddrs_all() {
	local _n_four _n_six
	network_get_ipaddrs _n_four "$2"
	network_get_ipaddrs6 _n_six "$2"
	_network_give "$1" "$_n_four${_n_four:+${_n_six:+ }}$_n_six"
}

network_get_subnets6() {
	local _n_own _n_addresses _n_masks _n_address
	_network_query _n_own "$2" "['ipv6-address'][*]['address','mask']" "/ "
	if _network_query _n_addresses "$2" "['ipv6-prefix-assignment'][*]['local-address'].address" &&
		_network_query _n_masks "$2" "['ipv6-prefix-assignment'][*].mask"; then
		for _n_address in $_n_addresses; do
			_n_own="${_n_own:+$_n_own }$_n_address/${_n_masks%% *}"
			_n_masks=${_n_masks#* }
		done
	fi
	_network_give "$1" "$_n_own"
}

# A global address before one of the site, and that before one of the link.
network_get_subnet6() {
	local _n_all _n_each _n_site= _n_link=
	network_get_subnets6 _n_all "$2"
	for _n_each in $_n_all; do
		case $_n_each in
			fe[89abAB]?:*) _n_link=${_n_link:-$_n_each} ;;
			f[cdCD]??:*) _n_site=${_n_site:-$_n_each} ;;
			*) _network_give "$1" "$_n_each"; return ;;
		esac
	done
	_network_give "$1" "${_n_site:-$_n_link}"
}

# VARIABLE INTERFACE [INACTIVE]
network_get_gateway() { _network_also "$1" "$2" "$3" ".route[@.target='0.0.0.0' && !@.table].nexthop" 1; }
network_get_gateway6() { _network_also "$1" "$2" "$3" ".route[@.target='::' && !@.table].nexthop" 1; }
network_get_dnsserver() { _network_also "$1" "$2" "$3" "['dns-server'][*]"; }
network_get_dnssearch() { _network_also "$1" "$2" "$3" "['dns-search'][*]"; }

# _network_wan VARIABLE TARGET INACTIVE: the interface that has the route.
_network_wan() {
	_network_query "$1" "" "[@.route[@.target='$2' && !@.table]].interface" "" 1 && return 0
	case $3 in
		1|true) _network_query "$1" "" "[@.inactive.route[@.target='$2' && !@.table]].interface" "" 1 ;;
		*) return 1 ;;
	esac
}

# VARIABLE [INACTIVE]
network_find_wan() { _network_wan "$1" 0.0.0.0 "$2"; }
network_find_wan6() { _network_wan "$1" :: "$2"; }

network_is_up() {
	local _n_up
	_network_query _n_up "$1" .up && [ "$_n_up" = 1 ]
}

# network_generate_iface_iaid VARIABLE INTERFACE: eight digits that stand for the name.
network_generate_iface_iaid() {
	local _n_digest
	_n_digest=$(printf '%s' "$2" | md5sum)
	_network_give "$1" "${_n_digest%"${_n_digest#????????}"}"
}

_network_defer() {
	ubus call network.device set_state "{ \"name\": \"$1\", \"defer\": $2 }" 2>/dev/null
}

network_defer_device() { _network_defer "$1" true; }
network_ready_device() { _network_defer "$1" false; }
