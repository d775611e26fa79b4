# SQLite in both journal modes: three writers at once on one database lose nothing; a writer that is killed in
# the middle leaves a database that is whole.
mkdir -p /mnt/sqlite && cd /mnt/sqlite
for mode in wal delete; do
    rm -f db*
    [ "$(sqlite3 db "pragma journal_mode=$mode;")" = $mode ]
    sqlite3 db 'create table t (who int, n int, filler text, primary key (who, n));'
    writer() {
        {
            echo '.timeout 120000'
            i=0
            while [ $i -lt "$SIZE" ]; do
                echo "begin immediate; insert into t values ($1, $i, hex(randomblob(200))); commit;"
                i=$((i + 1))
            done
        } | sqlite3 -bail db
    }
    writer 1 & one=$!
    writer 2 & two=$!
    writer 3
    wait $one && wait $two
    [ "$(sqlite3 db 'select count(*) from t;')" = $((SIZE * 3)) ]

    mkfifo in
    sqlite3 -bail db < in > out & victim=$!
    exec 3> in
    echo "begin immediate; update t set filler = hex(randomblob(300)); select 'there';" >&3
    until grep -q there out; do kill -0 $victim; done
    kill -9 $victim
    wait $victim || true
    exec 3>&-
    rm in out
    [ "$(sqlite3 -cmd '.timeout 120000' db 'pragma integrity_check;')" = ok ]
    [ "$(sqlite3 db 'select count(*) from t where length(filler) = 400;')" = $((SIZE * 3)) ]
    sqlite3 db 'vacuum; pragma wal_checkpoint(truncate);' > /dev/null
    [ "$(sqlite3 db 'pragma integrity_check;')" = ok ]
done
rm -r /mnt/sqlite
