# Sourced by scripts/image: GRUB on the disk, without loop devices and without grub-install.

# Where the environment block is in its file system: the only file of it, in one piece. The agent writes there, so it must not move.
grubenv_image() {
  local block
  { printf '# GRUB Environment Block\nBOOT_ORDER=A\nBOOT_A_LEFT=3\nBOOT_B_LEFT=0\n'; printf '#%.0s' $(seq 1024); } > "$work/grubenv"
  truncate -s 1024 "$work/grubenv"
  rm -f "$1"
  truncate -s $((mib * 512)) "$1"
  E2FSPROGS_FAKE_TIME=$epoch mke2fs -q -t ext2 -b 1024 -O none -U "$(uuid_of grubenv)" -E "hash_seed=$(uuid_of hash),root_owner=0:0" "$1"
  printf 'write %s grubenv\n' "$work/grubenv" | E2FSPROGS_FAKE_TIME=$epoch debugfs -w -f - "$1" > /dev/null 2>&1
  block=$(debugfs -R 'blocks grubenv' "$1" 2> /dev/null | tr -d ' \n')
  case $block in '' | *[!0-9]*) echo "scripts/image: grubenv is not one block: $block" >&2; return 1 ;; esac
  grubenv_offset=$((block * 1024))
}

# little VALUE OCTETS: printf's escapes for it, lowest octet first.
little() {
  local value=$1 count=$2
  while [ "$count" -gt 0 ]; do
    printf '\\x%02x' $((value & 255))
    value=$((value >> 8)) count=$((count - 1))
  done
}
# poke FILE OFFSET ESCAPES
poke() { printf "$3" | dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none; }

disk_grub() {
  local start sectors folder=$work/grub modules
  start=$(start_of bios)
  modules="memdisk tar biosdisk part_gpt ext2 fat linux normal loadenv test echo reboot serial terminal configfile"
  rm -rf "$folder"
  mkdir -p "$folder/boot/grub"
  filled "$folder/boot/grub/grub.cfg" image/boot/grub-start.cfg gpt
  tar -C "$folder" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" --format=ustar -cf "$work/memdisk.tar" boot
  # shellcheck disable=SC2086 # a list of words
  grub-mkimage -O i386-pc -p '(memdisk)/boot/grub' -m "$work/memdisk.tar" -o "$work/core.img" $modules
  sectors=$((($(stat -c %s "$work/core.img") + 511) / 512))
  truncate -s $((sectors * 512)) "$work/core.img"
  # The list of blocks at the end of its first sector: where the rest is, how long it is, and the segment it goes to.
  poke "$work/core.img" 0x1f4 "$(little $((start + 1)) 8)$(little $((sectors - 1)) 2)$(little 0x820 2)"
  put "$work/core.img" bios

  # The first 440 octets of the disk: where the image is; 0xff takes the disk it was started from; the jump over the check of
  # floppies becomes two idle ones.
  head -c 440 /usr/lib/grub/i386-pc/boot.img > "$work/boot.img"
  poke "$work/boot.img" 0x5c "$(little "$start" 8)"
  poke "$work/boot.img" 0x64 '\xff'
  poke "$work/boot.img" 0x66 '\x90\x90'
  dd if="$work/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
  poke "$disk" 510 '\x55\xaa'

  filled "$work/grub.cfg" image/boot/grub.cfg gpt
  boot_image "grub.cfg:$work/grub.cfg"
  put "$work/grubenv.ext2" grubenv
}
