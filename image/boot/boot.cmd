# U-Boot's choice: the first set of the order with tries left; one try is taken off at every boot. x86 has no setexpr, so numbers
# are counted down by hand, and a set has at most 3 tries. The environment is one sector, written at once.
setenv buffer 0x8000000
# What counts where the environment can't be read: a set that does not boot costs its tries, then the other one has its turn.
setenv BOOT_ORDER "A B"
setenv BOOT_A_LEFT 3
setenv BOOT_B_LEFT 3
virtio read ${buffer} @ENV_SECTOR@ 1
env import -c ${buffer} 0x200 BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT || echo "vestal: the environment is damaged"
setenv slot
for set in ${BOOT_ORDER}; do
  if test -n "${slot}"; then true;
  elif test "${set}" = "A"; then
    if test "${BOOT_A_LEFT}" = "3"; then setenv slot A; setenv BOOT_A_LEFT 2;
    elif test "${BOOT_A_LEFT}" = "2"; then setenv slot A; setenv BOOT_A_LEFT 1;
    elif test "${BOOT_A_LEFT}" = "1"; then setenv slot A; setenv BOOT_A_LEFT 0; fi;
  elif test "${set}" = "B"; then
    if test "${BOOT_B_LEFT}" = "3"; then setenv slot B; setenv BOOT_B_LEFT 2;
    elif test "${BOOT_B_LEFT}" = "2"; then setenv slot B; setenv BOOT_B_LEFT 1;
    elif test "${BOOT_B_LEFT}" = "1"; then setenv slot B; setenv BOOT_B_LEFT 0; fi;
  fi
done
env export -c -s 0x200 ${buffer} BOOT_ORDER BOOT_A_LEFT BOOT_B_LEFT
virtio write ${buffer} @ENV_SECTOR@ 1
# No set has tries left: the last of the order is the one that was good before.
if test -z "${slot}"; then for set in ${BOOT_ORDER}; do setenv slot ${set}; done; fi
if test "${slot}" = "B"; then
  setenv kernel @KERNEL_B@
  setenv root rootfs-b
else
  setenv slot A
  setenv kernel @KERNEL_A@
  setenv root rootfs-a
fi
echo "vestal: slot ${slot}, tries left A ${BOOT_A_LEFT}, B ${BOOT_B_LEFT}"
setenv bootargs "@CMDLINE@ root=PARTLABEL=${root} rootfstype=squashfs vestal.slot=${slot}"
load virtio 0:${kernel} 0x1000000 /vmlinuz && load virtio 0:${kernel} 0x6000000 /initrd.gz && zboot 0x1000000 0 0x6000000 ${filesize}
reset
