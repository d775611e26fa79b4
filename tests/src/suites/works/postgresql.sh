# PostgreSQL with its data on the share: made, loaded by pgbench, stopped at once as by a power cut, recovered,
# and every page's checksum verified. It refuses to run as root.
pg=/mnt/postgresql
rm -rf $pg && mkdir $pg && chown nobody:nogroup $pg
: > /tmp/pg.log && chown nobody /tmp/pg.log
as() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
cd /tmp
start() { as pg_ctl -D $pg/data -w -t 240 -l /tmp/pg.log -o '-c listen_addresses= -k /tmp -c shared_buffers=16MB' start; }
trap 'tail -n 20 /tmp/pg.log; as pg_ctl -D $pg/data -m immediate stop || true' EXIT
as initdb -D $pg/data --no-locale -E UTF8 --data-checksums -A trust > /tmp/initdb.log
start > /dev/null
as createdb -h /tmp bench
as pgbench -h /tmp -i -q -s 1 bench
as pgbench -h /tmp -c 3 -t "$SIZE" bench | grep -E 'processed|failed'
sum() { as psql -h /tmp -qAt -c "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), (select count(*) from pgbench_history)" bench; }
[ "$(sum)" = "t|$((SIZE * 3))" ]
as pg_ctl -D $pg/data -m immediate stop > /dev/null
start > /dev/null
[ "$(sum)" = "t|$((SIZE * 3))" ]
as pg_ctl -D $pg/data stop > /dev/null
trap - EXIT
as pg_checksums -D $pg/data --check | grep 'Bad checksums:  *0$'
rm -rf $pg
