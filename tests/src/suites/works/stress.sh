# stress-ng's stressors of files and names, one after the other, each checking what it did. Those that need a
# block device, the network or a file system of their own are left out.
rm -rf /mnt/stress && mkdir /mnt/stress && cd /mnt/stress
bad=
for stressor in access chdir chmod chown copy-file dentry dir dirdeep dirmany fallocate fcntl file-ioctl \
    filename flock fpunch fstat getdent hdd iomix io link locka lockf lockofd mknod open readahead rename seek \
    symlink sync-file touch unlink utime xattr; do
    # It makes up to 8 processes of one; no core files.
    if ! stress-ng --$stressor 2 --timeout "${SIZE}s" --verify --temp-path /mnt/stress > /tmp/said 2>&1; then
        bad="$bad $stressor"
        grep -E 'fail|error' /tmp/said | head -n 3 || true
    fi
done
[ -z "$(ls /mnt/stress)" ] || { echo "left behind: $(ls /mnt/stress)"; }
rm -rf /mnt/stress
[ -z "$bad" ] || { echo "failed:$bad"; exit 1; }
