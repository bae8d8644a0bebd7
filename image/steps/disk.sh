# Sourced by scripts/image: a disk with all partitions, made without mounting anything. A disk is put together from files by `dd`.
#
# The table of partitions is kept in four arrays of the same order, filled by `partition`; sizes are sectors of 512 octets.

cmdline="console=ttyS0 panic=1 quiet no_timer_check"
mib=2048
boot_sectors=$((4 * mib)) app_sectors=$((8 * mib)) data_sectors=$((64 * mib))

# uuid_of TEXT: always the same one for the same text.
uuid_of() {
  local digits
  digits=$(printf 'vestal image %s' "$1" | sha256sum)
  echo "${digits:0:8}-${digits:8:4}-4${digits:13:3}-8${digits:17:3}-${digits:20:12}"
}

# partition NAME SECTORS [TYPE]: the next one, at a whole mebibyte.
partition() {
  names+=("$1")
  starts+=("$next")
  lengths+=("$2")
  types+=("${3:-8300}")
  next=$(((next + $2 + mib - 1) / mib * mib))
}

# at NAME: its place in the arrays.
at() {
  local place
  for place in "${!names[@]}"; do
    if [ "${names[place]}" = "$1" ]; then echo "$place"; return; fi
  done
  echo "scripts/image: there is no partition $1" >&2
  return 1
}
number_of() { echo $(($(at "$1") + 1)); }
start_of() { echo "${starts[$(at "$1")]}"; }

# slot_sectors LEAST FILE: room for twice what is there now, in steps of 8 MiB.
slot_sectors() {
  local least=$1 size
  size=$(stat -c %s "$2")
  size=$(((2 * size / 512 + 8 * mib - 1) / (8 * mib) * 8 * mib))
  echo $((size > least ? size : least))
}

# disk_layout LOADER: fills the arrays. Needs the kernel, the initramfs and the squashfs.
disk_layout() {
  local loader=$1 kernel_sectors rootfs_sectors
  kernel_sectors=$(slot_sectors $((32 * mib)) "$out/kernel.img")
  rootfs_sectors=$(slot_sectors $((32 * mib)) "$out/$squashfs")
  names=() starts=() lengths=() types=() next=$mib
  partition env $mib
  if [ "$loader" = grub ]; then
    partition bios $mib ef02
    partition grubenv $mib
  fi
  partition boot-a $boot_sectors
  partition boot-b $boot_sectors
  partition kernel-a "$kernel_sectors"
  partition kernel-b "$kernel_sectors"
  partition rootfs-a "$rootfs_sectors"
  partition rootfs-b "$rootfs_sectors"
  partition app-a $app_sectors
  partition app-b $app_sectors
  partition record 2
  partition autorun 16
  partition data $data_sectors
}

# put FILE PARTITION: never more than fits.
put() {
  local place
  place=$(at "$2")
  if [ "$(stat -c %s "$1")" -gt $((lengths[place] * 512)) ]; then
    echo "scripts/image: $1 has $(stat -c %s "$1") bytes, the partition $2 only $((lengths[place] * 512))" >&2
    return 1
  fi
  dd if="$1" of="$disk" bs=512 seek="${starts[place]}" conv=notrunc,sparse status=none
}

# fat FILE NAME:SOURCE...: a FAT file system that is as large as these files need.
fat() {
  local file=$1 pair size=0 bits=12
  shift
  for pair in "$@"; do size=$((size + $(stat -c %s "${pair#*:}"))); done
  size=$((size / 512 / mib * mib + 2 * mib))
  [ $size -le $((16 * mib)) ] || bits=16
  rm -f "$file.new"
  truncate -s $((size * 512)) "$file.new"
  mkfs.vfat -F $bits --invariant -i 56455354 "$file.new" > /dev/null
  for pair in "$@"; do
    cp "${pair#*:}" "$work/file"
    touch -d "@$epoch" "$work/file"
    SOURCE_DATE_EPOCH=$epoch mcopy -m -i "$file.new" "$work/file" "::${pair%%:*}"
  done
  mv "$file.new" "$file"
}

# filled FILE TEMPLATE: the template with what is known of the partitions.
filled() {
  sed -e "s/@CMDLINE@/$cmdline/" -e "s/@ENV_SECTOR@/$(printf '0x%x' "$(start_of env)")/" "$2" > "$1"
  local name key
  for name in boot-a boot-b kernel-a kernel-b grubenv; do
    key=${name^^}
    if number=$(at "$name" 2> /dev/null); then sed -i "s/@${key//-/_}@/${3:-}$((number + 1))/" "$1"; fi
  done
}

# disk_image FILE LOADER
disk_image() {
  local loader=$2 place arguments=()
  disk=$1.new
  rm -f "$disk"
  truncate -s $(((next + mib) * 512)) "$disk"
  for place in "${!names[@]}"; do
    arguments+=(-n "$((place + 1)):${starts[place]}:+${lengths[place]}" -c "$((place + 1)):${names[place]}" -t "$((place + 1)):${types[place]}")
    arguments+=(-u "$((place + 1)):$(uuid_of "${names[place]}")")
  done
  for place in $(number_of boot-a) $(number_of boot-b); do arguments+=(-A "$place:set:2"); done
  # One call: each of them reads and writes the whole table.
  sgdisk -o -a 1 -U "$(uuid_of disk)" "${arguments[@]}" "$disk" > /dev/null

  put "$out/kernel.img" kernel-a
  put "$out/$squashfs" rootfs-a
  put "$out/application.squashfs" app-a
  E2FSPROGS_FAKE_TIME=$epoch data_image "$work/data.ext4"
  put "$work/data.ext4" data
  "disk_$loader"
  mv "$disk" "$1"
}

# Empty: what is in it comes at the first boot.
data_image() {
  rm -f "$1"
  truncate -s $((data_sectors * 512)) "$1"
  mke2fs -q -t ext4 -L data -U "$(uuid_of data)" -J size=4 \
    -E "hash_seed=$(uuid_of hash),root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0" "$1"
}

# boot_image NAME:SCRIPT: the loader's script, in both partitions.
boot_image() {
  fat "$out/$boot" "$1"
  put "$out/$boot" boot-a
  put "$out/$boot" boot-b
}

# U-Boot runs boot.scr of the first partition with the attribute "legacy boot", of the second one if the first is damaged.
disk_uboot() {
  filled "$work/boot.cmd" image/boot/boot.cmd
  SOURCE_DATE_EPOCH=$epoch mkimage -A x86 -T script -C none -n vestal -d "$work/boot.cmd" "$work/boot.scr" > /dev/null
  boot_image "boot.scr:$work/boot.scr"
  printf 'BOOT_ORDER=A\nBOOT_A_LEFT=3\nBOOT_B_LEFT=0\n' | mkenvimage -s 0x200 -o "$work/env" -
  put "$work/env" env
}

# Our own loader is in the initramfs, which QEMU is given beside the kernel.
disk_own() {
  rm -f "$work/record"
  truncate -s 1024 "$work/record"
  "$work/vestal-upgrade" boot-init A "$work/record" > /dev/null
  put "$work/record" record
}
