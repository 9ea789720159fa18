#!/bin/sh
# Run a command in the Arm root, in a user namespace of its own: it needs no rights, and nothing outside it changes.
#   unshare --user --map-root-user --mount sh enter.sh QEMU FOLDER CHECKOUT WORK COMMAND ...
# FOLDER holds root/ and packages/, and files that stand in for those by which engines tell an Arm processor.
set -e
qemu=$1 folder=$2 checkout=$3 work=$4
shift 4
root=$folder/root
# From Linux 6.7 on a user namespace has its own table of interpreters; before, the machine's must know Arm programs.
if mount -t binfmt_misc none /proc/sys/fs/binfmt_misc 2>/dev/null; then
    magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00'
    mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'
    printf '%s' ":aarch64:M::$magic:$mask:$qemu:OF" >/proc/sys/fs/binfmt_misc/register
fi
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$folder/$QEMU_CPU.cpuinfo" "$root/proc/cpuinfo"
mount --bind "$folder/$QEMU_CPU.sys" "$root/sys"
mount --bind "$folder/packages" "$root/opt/packages"
mount --bind "$work" "$root/tmp"
mount --bind "$checkout" "$root/opt/checkout/offramp"
mount -o remount,bind,ro "$root/opt/checkout/offramp"
exec chroot "$root" "$@"
