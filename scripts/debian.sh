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

# debian_unpacked PACKAGE: the folder of target/debian into which the newest PACKAGE is unpacked; downloads it where that version is
# not there yet. An ordinary user may do this; where apt knows no newer version, nothing is fetched.
debian_unpacked() {
  local package=$1 cache=target/debian version folder scratch file
  version=$(apt-cache policy "$package" | sed -n 's/^  Candidate: //p')
  if [ -z "$version" ] || [ "$version" = "(none)" ]; then
    echo "Debian's package $package is not known here: run apt-get update as root" >&2
    return 1
  fi
  folder=$cache/${package}_${version//:/%3a}
  if [ ! -d "$folder" ]; then
    mkdir -p "$cache"
    # Two scripts may want the same package at once: each works for itself, and the first one's stays.
    scratch=$(mktemp -d "$folder.XXXXXX")
    chmod 755 "$scratch"
    file=$(find "$cache" -maxdepth 1 -name "${package}_${version//:/%3a}_*.deb" -print -quit)
    if [ -z "$file" ]; then
      if ! (cd "$scratch" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$package=$version") >&2; then
        rm -rf "$scratch"
        echo "$package $version can't be downloaded: run apt-get update as root, for there may be a newer one" >&2
        return 1
      fi
      mv "$scratch"/*.deb "$cache/"
      file=$(find "$cache" -maxdepth 1 -name "${package}_${version//:/%3a}_*.deb" -print -quit)
    fi
    dpkg -x "$file" "$scratch" || return 1
    mv -T "$scratch" "$folder" 2>/dev/null || rm -rf "$scratch"
  fi
  echo "$folder"
}
