#!/bin/sh
# Asks the verifier of another kernel: boots it in an emulator with nothing but the object, and loads the programs.
#
#   old_kernel.sh VMLINUZ
#
# Needs qemu-system-x86_64, busybox (static), bpftool, cpio. Takes half a minute. An image of 5.10, without installing it:
#   echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] MIRROR bullseye main'
# as the only source of an apt with its own lists, `apt-get download linux-image-5.10.0-32-cloud-amd64`, `dpkg-deb -x`.
set -eu
kernel=$(readlink -f "$1")
object=$(readlink -f "$(dirname "$0")/../../egresslab/datapath/bpf/egresslab.o")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
cd "$root"
mkdir -p root/bin root/proc root/sys root/dev
cp "$(command -v busybox)" root/bin/busybox
bpftool=$(command -v bpftool)
cp "$bpftool" root/bin/bpftool
for library in $(ldd "$bpftool" | grep -o '/[^ ]*'); do
  mkdir -p "root$(dirname "$library")"
  cp -L "$library" "root$library"
done
cp "$object" root/egresslab.o
cat > root/init <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t bpf bpf /sys/fs/bpf
echo "kernel $(/bin/busybox uname -r)"
/bin/bpftool prog loadall /egresslab.o /sys/fs/bpf/programs 2>&1 | /bin/busybox tail -n 40
/bin/bpftool prog show 2>&1 | /bin/busybox grep name
[ -e /sys/fs/bpf/programs/from_wire ] && echo "accepted"
/bin/busybox poweroff -f
INIT
chmod +x root/init
(cd root && find . | cpio -o -H newc 2>/dev/null) | gzip -1 > init.gz
timeout 300 qemu-system-x86_64 -accel tcg -m 1024 -nographic -no-reboot -nic none -kernel "$kernel" -initrd init.gz \
  -append "console=ttyS0 panic=-1 quiet mitigations=off random.trust_cpu=on" > boot.log 2>&1 || true
sed -n '/^kernel /,$p' boot.log
grep -q '^accepted' boot.log
