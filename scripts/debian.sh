# Sourced by the scripts that need programs from Debian.

# need_packages PACKAGE:PROGRAM... installs the packages whose program isn't there, without starting their services.
need_packages() {
  local missing=() pair as_root=()
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair#*:}" >/dev/null || missing+=("${pair%%:*}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  echo "installing from Debian: ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "not root and no sudo: install ${missing[*]} by hand; tests that need them will fail" >&2
      return 1
    fi
    as_root=(sudo)
  fi
  # policy-rc.d is how Debian's packages are told not to start anything; one that is there already is left alone.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    made=yes
  fi
  local failed=0
  "${as_root[@]}" apt-get update -q || failed=$?
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -qy --no-install-recommends "${missing[@]}" || failed=$?
  if [ -n "$made" ]; then "${as_root[@]}" rm -f "$policy"; fi
  return "$failed"
}
