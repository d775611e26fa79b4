# Run in an emulated guest on each daemon's share: what a developer's programs do. One JSON line a row.
share=/mnt/speed
rm -rf $share && mkdir $share && cd $share
export GIT_CONFIG_GLOBAL=/dev/null HOME=/tmp

now() { read -r up _ < /proc/uptime; echo "$up"; }
# key, work done, when it began
say() {
    perl -e '($k, $n, $a, $b) = @ARGV; $t = $b - $a || .01; printf "{\"row\": \"%s\", \"value\": %.3f}\n", $k, $n / $t' \
        "$1" "$2" "$3" "$(now)"
}
# key, what is done once a file. From when perl has been loaded, which takes longer than some of this.
timed() {
    perl -MTime::HiRes=time -e '
        my ($key, $files, $work) = @ARGV;
        my $each = eval "sub { $work }" or die;
        my $begin = time;
        $each->() for 1 .. $files;
        printf "{\"row\": \"%s\", \"value\": %.3f}\n", $key, $files / (time - $begin)' "$1" $files "$2"
}
cold() { sync && echo 3 > /proc/sys/vm/drop_caches; }

files=160
tree=/tmp/speed-tree
mkdir -p $tree
perl -e '
    for (0 .. $ARGV[0] - 1) {
        mkdir sprintf "%s/d%d", $ARGV[1], $_ / 20 if $_ % 20 == 0;
        open F, ">", sprintf "%s/d%d/f%d", $ARGV[1], $_ / 20, $_ or die; print F "x" x 2000; close F;
    }' $files $tree
tar -C /tmp -cf /tmp/speed.tar speed-tree

run=0
while [ $run -lt "$RUNS" ]; do
    run=$((run + 1))
    mkdir made
    timed guest-create 'open F, ">", "made/f$_" or die; close F'
    cold
    timed guest-stat 'lstat "made/f$_" or die'

    begin=$(now)
    tar -xf /tmp/speed.tar
    say guest-untar $files "$begin"
    cold
    begin=$(now)
    ls -lR speed-tree > /dev/null
    say guest-ls $files "$begin"

    [ -d speed-tree/.git ] || { git -C speed-tree init -q && git -C speed-tree add -A; }
    cold
    begin=$(now)
    git -C speed-tree status --porcelain > /dev/null
    say guest-git $files "$begin"
    begin=$(now)
    rm -r made speed-tree
    say guest-rm $((files * 2)) "$begin"

    # diod hands O_DIRECT on to the host, whose file system may not have it: then there is no figure.
    begin=$(now)
    if dd if=/dev/zero of=big bs=1M count=32 oflag=direct 2> /dev/null; then
        say guest-write 32 "$begin"
        begin=$(now)
        dd if=big of=/dev/null bs=1M iflag=direct 2> /dev/null
        say guest-read 32 "$begin"
    fi
    rm -f big
done
cd / && rm -rf $share
