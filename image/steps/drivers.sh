# Sourced by scripts/image: vestal-driver and what it takes. It loads shared objects, which a static program can't: so it brings the C library
# of the machine that has built it along, and is no part of the suite.

# drivers_built: the program and the example drivers, into $work/drivers. Needs $profile.
drivers_built() {
  local built source flags=(-shared -fPIC -O2 -std=c11 -D_POSIX_C_SOURCE=200809L -fpatchable-function-entry=16 -Wl,-z,now,-z,relro,-z,noexecstack)
  built=$(realpath "${CARGO_TARGET_DIR:-target}")/$profile
  mkdir -p "$work/drivers"
  # Named beside it, the suite makes cargo choose the features of shared crates as for the suite, so that they are not built once more.
  RUSTFLAGS=$remapped cargo build --quiet --locked --profile "$profile" -p vestal-suite -p vestal-driver --bin vestal-driver
  RUSTFLAGS=$remapped cargo build --quiet --locked --profile "$profile" -p serial-driver
  cp "$built/vestal-driver" "$work/drivers/"
  cp "$built/libserial_driver.so" "$work/drivers/serial.so"
  for source in crates/driver-abi/examples/c/*.c; do
    cc "${flags[@]}" -Icrates/driver-abi/include -o "$work/drivers/$(basename "$source" .c).so" "$source"
  done
  strip --strip-debug "$work/drivers"/*.so
}

# drivers_installed INTO
drivers_installed() {
  local into=$1 needed
  install -D -m 755 "$work/drivers/vestal-driver" "$into/usr/sbin/vestal-driver"
  mkdir -p "$into/usr/lib/vestal/drivers"
  install -m 644 "$work/drivers"/*.so "$into/usr/lib/vestal/drivers/"
  # Where the program looks for them: its interpreter, and the folders that this one has built in.
  for needed in $(ldd "$work/drivers/vestal-driver" "$work/drivers"/*.so | sed -n 's|^\t\(.* => \)\?\(/[^ ]*\) (0x[0-9a-f]*)$|\2|p' | sort -u); do
    install -D -m 755 "$needed" "$into$needed"
  done
  echo cuse >> "$into/etc/modules"
}
