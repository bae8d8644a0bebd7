# Sourced by scripts/image: the root folder, and the squashfs of it.

# rootfs_folder INTO LOADER: everything of the device below INTO. Needs $suite, $kernel_tree, $kernel, $keys, $version, $epoch.
rootfs_folder() {
  local into=$1 loader=$2 name path to
  rm -rf "$into"
  mkdir -p "$into"/{bin,sbin,usr/bin,usr/sbin,usr/share/vestal,etc,lib,dev,proc,sys,run,tmp,data,root,mnt,var/lib/vestal}
  ln -s /run "$into/var/run"
  ln -s /run/lock "$into/var/lock"
  ln -s /tmp "$into/var/tmp"
  cp -a image/rootfs/. "$into/"
  ln -s /run/resolv.conf "$into/etc/resolv.conf"

  # Busybox first: what the suite has under the same name takes its place.
  install -m 755 "$busybox/bin/busybox" "$into/bin/busybox"
  for path in $("$busybox/bin/busybox" --list-full); do
    case $path in
      bin/busybox | linuxrc | *dpkg* | *rpm* | */depmod) continue ;; # of no use on a device
      bin/*) ln -s busybox "$into/$path" ;;
      sbin/*) ln -s ../bin/busybox "$into/$path" ;;
      *) ln -s ../../bin/busybox "$into/$path" ;;
    esac
  done
  install -m 755 "$e2fsck/sbin/e2fsck.static" "$into/sbin/e2fsck"
  ln -s e2fsck "$into/sbin/fsck.ext4"

  install -m 755 "$suite" "$into/usr/sbin/vestal-suite"
  for name in $(exec -a vestal-suite "$suite" --list); do ln -s vestal-suite "$into/usr/sbin/$name"; done
  ln -s ../sbin/vestalctl "$into/usr/bin/vestalctl"
  ln -sf ../usr/sbin/vestal-keeper "$into/sbin/init"
  # The machine ends by the keeper's hand only.
  for name in reboot poweroff halt; do
    printf '#!/bin/sh\nexec vestalctl system %s\n' "$name" > "$into/sbin/$name.new"
    chmod 755 "$into/sbin/$name.new"
    mv -f "$into/sbin/$name.new" "$into/sbin/$name"
  done

  # OpenWrt's names and scripts.
  for path in etc lib usr; do cp -a "configs/openwrt/$path/." "$into/$path/"; done
  while read -r path to; do
    case $path in '#'*) continue ;; esac
    rm -f "$into"/{bin,sbin,usr/bin,usr/sbin}/"${path##*/}"
    ln -s "$to" "$into$path"
  done < configs/openwrt/links
  rm -f "$into/lib/links"
  cp configs/device/services.d/console.toml configs/openwrt/services.d/*.toml "$into/etc/vestal/services.d/"

  cp "image/boot/upgrade-$loader.toml" "$into/etc/vestal/upgrade.toml"
  if [ "$loader" = grub ]; then sed -i "s/@GRUBENV@/$grubenv_offset/" "$into/etc/vestal/upgrade.toml"; fi
  [ "$loader" = uboot ] || rm -f "$into/etc/fw_env.config"
  cp "$keys/keyring.json" "$keys/keyring.json.sig" "$into/usr/share/vestal/"
  rootfs_components > "$into/usr/share/vestal/components.json"
  printf 'NAME=Vestal\nID=vestal\nVERSION=%q\nBUILD_ID=%q\n' "$version" "$version" > "$into/etc/os-release"
  [ -z "$drivers" ] || drivers_installed "$into"
  rootfs_modules "$into"
  [ -z "$overlay" ] || cp -a --remove-destination "$overlay/." "$into/"

  settle "$into"
  chmod 1777 "$into/tmp"
}

# settle FOLDER: rights that don't come from the umask of whoever built it, and times that are the same at every build.
settle() {
  chmod -R u+rwX,go+rX,go-w "$1"
  find "$1" -exec touch -h -d "@$epoch" {} +
}

# What the device is told of its slots, for as long as no bundle says more. Of the root file system itself it can't say the hash.
rootfs_components() {
  local name file
  printf '{"rootfs": {"version": "%s"}' "$version"
  for name in kernel:kernel.img application:application.squashfs; do
    file=$out/${name#*:}
    [ -z "$rootfs_only" ] || [ "${name%%:*}" != kernel ] || continue
    printf ', "%s": {"version": "%s", "hash": "%s", "size": %s}' "${name%%:*}" "$version" \
      "$(sha256sum "$file" | cut -d ' ' -f 1)" "$(stat -c %s "$file")"
  done
  printf '}\n'
}

# rootfs_modules INTO: the modules of /etc/modules that this kernel has, with what they need.
rootfs_modules() {
  local into=$1 name file
  for name in $(grep -v '^#' "$into/etc/modules") vfat nls_cp437 nls_ascii sch_netem softdog; do
    for file in $(module_files "$name"); do
      install -D -m 644 "$file" "$into/lib/modules/$kernel/${file#"$kernel_tree/lib/modules/$kernel/"}"
    done
  done
  for name in order builtin builtin.modinfo; do cp "$kernel_tree/lib/modules/$kernel/modules.$name" "$into/lib/modules/$kernel/"; done
  depmod -b "$into" "$kernel"
  # Busybox reads these two; the others say the same once more.
  find "$into/lib/modules/$kernel" -maxdepth 1 -type f ! -name modules.dep ! -name modules.builtin -delete
}

# rootfs_squashfs FOLDER FILE
rootfs_squashfs() {
  rm -f "$2.new"
  SOURCE_DATE_EPOCH=$epoch mksquashfs "$1" "$2.new" -noappend -all-root -comp zstd -Xcompression-level $level -b $block -no-progress -quiet
  mv "$2.new" "$2"
}
