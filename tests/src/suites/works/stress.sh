# stress-ng's stressors of files and names, one after the other, each checking what it did. Those that need a
# block device, the network or a file system of their own are left out, and those that only fill folders.
rm -rf /mnt/stress && mkdir /mnt/stress && cd /mnt/stress
bad=
for stressor in access chdir chmod chown dentry dir fallocate fcntl file-ioctl filename flock fpunch \
    fstat getdent hdd link locka lockf lockofd mknod open rename seek symlink sync-file touch utime \
    xattr; do
    status=0
    timeout -k 5 60 stress-ng --$stressor 1 --timeout "${SIZE}s" --verify --temp-path /mnt/stress \
        --dir-dirs 64 --dentries 64 --fallocate-bytes 4M --hdd-bytes 2M \
        --seek-size 1M --sync-file-bytes 1M > /tmp/said 2>&1 || status=$?
    # 3: stress-ng itself finds that it cannot be done here.
    case $status in
        0) ;;
        3) echo "$stressor: not here: $(grep -m 1 -E 'skip|not' /tmp/said)" ;;
        *) bad="$bad $stressor" && echo "$stressor: $status: $(grep -m 2 -E 'fail|error' /tmp/said)" ;;
    esac
done
left=$(ls /mnt/stress)
[ -z "$left" ] || echo "left behind: $left"
rm -rf /mnt/stress
[ -z "$bad" ] || { echo "failed:$bad"; exit 1; }
