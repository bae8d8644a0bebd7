# Sourced by scripts/image: the initramfs, and the kernel without its compression.

# module_files NAME: the module's file, after those it needs; nothing where this kernel does not have it, or has it built in.
module_files() {
  modprobe -d "$kernel_tree" -S "$kernel" --show-depends "$1" 2> /dev/null | sed -n 's/^insmod \([^ ]*\).*/\1/p' || true
}

# initramfs FILE [PROGRAM]: with a program, that one beside busybox as vestal-upgrade: our own loader runs there.
initramfs() {
  local folder=$work/initramfs name file
  rm -rf "$folder"
  mkdir -p "$folder"/{bin,modules,proc,sys,dev,root}
  install -m 755 image/initramfs/init "$folder/init"
  install -m 755 "$busybox/bin/busybox" "$folder/bin/busybox"
  [ -z "${2:-}" ] || install -m 755 "$2" "$folder/bin/vestal-upgrade"
  : > "$folder/modules/order"
  # The watchdog's driver is wanted as soon as the supervisor runs; other kernels than the full one don't have it. /dev/cuse is wanted by
  # the manager of drivers, which starts before any service that could load a module.
  for name in virtio_pci virtio_blk squashfs ext4 i6300esb ${drivers:+cuse}; do
    for file in $(module_files "$name"); do
      [ -e "$folder/modules/${file##*/}" ] && continue
      cp "$file" "$folder/modules/"
      echo "${file##*/}" >> "$folder/modules/order"
    done
  done
  settle "$folder"
  (cd "$folder" && find . | LC_ALL=C sort | cpio -o -H newc --quiet --reproducible -R 0:0) | gzip -9n > "$1.new"
  mv "$1.new" "$1"
}

# kernel_unpacked BZIMAGE FILE: the ELF in it, which QEMU starts by itself (PVH); unpacking it in an emulated machine takes seconds.
# The setup header says where the payload is (Documentation/x86/boot.rst: setup_sects, payload_offset, payload_length).
kernel_unpacked() {
  local sectors offset length
  sectors=$(od -An -tu1 -j $((0x1f1)) -N 1 "$1")
  read -r offset length < <(od -An -tu4 -j $((0x248)) -N 8 "$1")
  offset=$(((sectors + 1) * 512 + offset))
  # The last 4 octets are the unpacked size, which the decompressors don't know.
  dd if="$1" of="$work/payload" bs=1M iflag=skip_bytes,count_bytes skip=$offset count=$((length - 4)) status=none
  case $(head -c 2 "$work/payload" | od -An -tx1) in
    ' fd 37') xz -dc --single-stream "$work/payload" > "$2.new" ;;
    ' 02 21') lz4 -dcq "$work/payload" > "$2.new" ;;
    ' 28 b5') zstd -dcq "$work/payload" > "$2.new" ;;
    *) echo "$1: its payload is packed in a way that is not known here" >&2; return 1 ;;
  esac
  mv "$2.new" "$2"
}
