//! sharefs killed, and replaced by another program, while clients are at work over 9P: they see a pause, and nothing
//! else. Some are the kernel's in a guest, some send many requests at once and look at each answer.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tests::daemons::{Kind, World};
use tests::guest::Guest;
use tests::limit::wait_for;
use tests::ninep::{Body, Client, ROOT, kind, refusal};
use tests::{Context, Result, ensure, whole_system};

const CONFIG: &str = r#"
[network.vmnet8]
type = "nat"
subnet = "192.168.130.0/24"

[guest.dev]

[share.d]
path = "@shared/d"
at = "/mnt/d"
guest-owner = "0:0"
ninep = true

[share.layers]
path = "@shared/layers"
at = "/mnt/layers"
guest-owner = "0:0"
exclude = ["hidden"]
read-only-paths = ["frozen"]
case = "insensitive"
names = "windows"
ninep = true

[share.host]
path = "/"
at = "/host"
read-only = true
guest-owner = "0:0"
"#;

const LONG: Duration = Duration::from_secs(120);
const EIO: u32 = 5;
const READ_WRITE: u32 = 2;
const APPEND: u32 = 0o2000;
const CREATE_NEW: u32 = 0o300;
const REMOVE_FOLDER: u32 = 0x200;
const WRITE_LOCK: u8 = 1;
const UNLOCK: u8 = 2;

fn world() -> Result<World> {
    let mut world = World::new(CONFIG)?;
    world.share_folder("d")?;
    world.share_folder("layers")?;
    world.set_variable(
        "SHARECTL_SHAREFS_DIE",
        &world.path("die").display().to_string(),
    );
    world.start(Kind::Netd)?;
    world.start(Kind::Sharefs)?;
    Ok(world)
}

fn number(world: &World, name: &str) -> Result<u64> {
    let page = world.ask(Kind::Sharefs, "GET", "/metrics", None)?.body;
    let lines = page.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    Ok(values.sum())
}

fn socket(world: &World) -> PathBuf {
    world.runtime().join("guest/dev/9p.sock")
}

fn walk(from: u32, to: u32, names: &[&str]) -> (u8, Body) {
    let count = u16::try_from(names.len()).unwrap_or_default();
    let body = Body::new().word(from).word(to).short(count);
    (
        kind::WALK,
        names.iter().fold(body, |body, name| body.text(name)),
    )
}

fn create(fid: u32, name: &str, flags: u32) -> (u8, Body) {
    let body = Body::new().word(fid).text(name).word(flags);
    (kind::LCREATE, body.word(0o644).word(0))
}

fn write(fid: u32, offset: u64, data: &[u8]) -> (u8, Body) {
    (kind::WRITE, Body::new().word(fid).long(offset).data(data))
}

fn read(fid: u32, offset: u64, count: u32) -> (u8, Body) {
    (kind::READ, Body::new().word(fid).long(offset).word(count))
}

fn lock(fid: u32, kind_of: u8, may_wait: bool, process: u32) -> (u8, Body) {
    let body = Body::new().word(fid).byte(kind_of).word(may_wait.into());
    (
        kind::LOCK,
        body.long(0).long(0).word(process).text("client"),
    )
}

fn unlink(folder: u32, name: &str, flags: u32) -> (u8, Body) {
    (
        kind::UNLINKAT,
        Body::new().word(folder).text(name).word(flags),
    )
}

fn rename(from: (u32, &str), to: (u32, &str)) -> (u8, Body) {
    let body = Body::new().word(from.0).text(from.1);
    (kind::RENAMEAT, body.word(to.0).text(to.1))
}

fn one(kind_of: u8, fid: u32) -> (u8, Body) {
    (kind_of, Body::new().word(fid))
}

/// A client at work until it is told to stop: how often it went round.
struct Worker {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<Result<u64>>,
}

const LOG: u32 = 1;
const FOLDER: u32 = 2;
const FILE: u32 = 3;
const VALUE: u32 = 4;
const LIST: u32 = 5;

impl Worker {
    fn begin(world: &World, share: &str, me: usize) -> Result<Self> {
        let mut client = Client::attach(&socket(world), share)?;
        let made = [
            walk(ROOT, LOG, &[]),
            create(LOG, &format!("log{me}"), READ_WRITE | APPEND),
        ];
        for (kind_of, body) in made {
            client.ask(kind_of, body)?;
        }
        let (stop, rounds) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Acquire) {
                let turn = counted.load(Ordering::Relaxed);
                round(&mut client, me, turn)
                    .with_context(|| format!("client {me}, round {turn}"))?;
                counted.store(turn + 1, Ordering::Release);
            }
            Ok(counted.load(Ordering::Relaxed))
        });
        Ok(Self {
            stop,
            rounds,
            thread,
        })
    }

    /// It has gone round once more, or has died.
    fn await_round(&self) -> Result<()> {
        let before = self.rounds.load(Ordering::Acquire);
        wait_for("a client to go on", LONG, || {
            let went = self.rounds.load(Ordering::Acquire) > before + 1;
            Ok((went || self.thread.is_finished()).then_some(()))
        })
    }

    fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow::anyhow!("a client panicked"))?
    }
}

/// Everything that a message does to a name or a file, all on its way at once, and each answer looked at. What is
/// appended is always the same, so that neither a lost one nor one that was done twice can hide.
fn round(client: &mut Client, me: usize, turn: u64) -> Result<()> {
    let folder = format!("t{me}");
    let text = format!("{turn} of {me}\n");
    let big: Vec<u8> = (0..200_000_u64)
        .map(|at| u8::try_from((at * 7 + turn) % 251).unwrap_or_default())
        .collect();
    let attribute = Body::new().word(VALUE).text("user.n");
    let link = Body::new().word(FOLDER).word(FILE).text("hard");
    let symbolic = Body::new().word(FOLDER).text("soft").text("g").word(0);
    let requests = vec![
        (
            kind::MKDIR,
            Body::new().word(ROOT).text(&folder).word(0o755).word(0),
        ),
        walk(ROOT, FOLDER, &[&folder]),
        walk(FOLDER, FILE, &[]),
        create(FILE, "f", READ_WRITE | CREATE_NEW),
        write(FILE, 0, text.as_bytes()),
        (kind::FSYNC, Body::new().word(FILE).word(0)),
        write(FILE, 100, &big),
        read(FILE, 0, u32::try_from(text.len())?),
        read(FILE, 100, 200_000),
        write(LOG, 0, b"the same\n"),
        rename((FOLDER, "f"), (FOLDER, "g")),
        (kind::LINK, link),
        (kind::SYMLINK, symbolic),
        lock(LOG, WRITE_LOCK, false, 7),
        walk(FOLDER, LIST, &[]),
        (kind::LOPEN, Body::new().word(LIST).word(0)),
        (kind::READDIR, Body::new().word(LIST).long(0).word(8000)),
        one(kind::CLUNK, LIST),
        walk(FILE, VALUE, &[]),
        (kind::XATTRCREATE, attribute.long(5).word(1)),
        write(VALUE, 0, b"va"),
        write(VALUE, 2, b"lue"),
        one(kind::CLUNK, VALUE),
        (
            kind::XATTRWALK,
            Body::new().word(FILE).word(VALUE).text("user.n"),
        ),
        read(VALUE, 0, 100),
        one(kind::CLUNK, VALUE),
        lock(LOG, UNLOCK, false, 7),
        write(LOG, 0, b"the same\n"),
        unlink(FOLDER, "hard", 0),
        unlink(FOLDER, "soft", 0),
        unlink(FOLDER, "g", 0),
        read(FILE, 0, u32::try_from(text.len())?),
        // Its fid may be gone when they are done, and they have the file in common.
        (kind::FSYNC, Body::new().word(FILE).word(0)),
        (kind::FSYNC, Body::new().word(FILE).word(1)),
        one(kind::CLUNK, FILE),
        one(kind::CLUNK, FOLDER),
        unlink(ROOT, &folder, REMOVE_FOLDER),
    ];
    let kinds: Vec<u8> = requests.iter().map(|(kind_of, _)| *kind_of).collect();
    let tags = client.send(requests)?;
    let mut reads = Vec::new();
    for (index, (tag, kind_of)) in tags.into_iter().zip(kinds).enumerate() {
        let body = client
            .granted(tag, kind_of)
            .with_context(|| format!("request {index}"))?;
        match kind_of {
            kind::READ => reads.push(body.get(4..).unwrap_or_default().to_vec()),
            kind::WRITE => ensure!(body.first_chunk().is_some_and(|count| {
                [5, 9, 2, 3, u32::try_from(text.len()).unwrap_or(0), 200_000]
                    .contains(&u32::from_le_bytes(*count))
            })),
            kind::LOCK => ensure!(body == [0], "lock {body:?}"),
            _ => {}
        }
    }
    let expected = [text.as_bytes(), &big, b"value", text.as_bytes()];
    ensure!(reads == expected, "what was read back is another");
    Ok(())
}

/// Ends them: each went round, and what it appended is there as often.
fn end(world: &World, share: &str, workers: Vec<Worker>) -> Result<()> {
    let folder = world.share_folder(share)?;
    for (me, worker) in workers.into_iter().enumerate() {
        worker.await_round()?;
        let rounds = worker.end()?;
        let log = fs::read_to_string(folder.join(format!("log{me}")))?;
        let lines = log.lines().filter(|line| *line == "the same").count() as u64;
        ensure!(
            rounds > 0 && lines == 2 * rounds && log.len() as u64 == 9 * lines,
            "{lines} lines in {rounds} rounds, {} bytes",
            log.len()
        );
        ensure!(!folder.join(format!("t{me}")).exists());
        fs::remove_file(folder.join(format!("log{me}")))?;
    }
    Ok(())
}

fn begin(world: &World, share: &str) -> Result<Vec<Worker>> {
    (0..3).map(|me| Worker::begin(world, share, me)).collect()
}

#[test]
fn clients_with_many_requests_on_their_way_outlive_killed_daemons_and_another_program() {
    whole_system(|| {
        let mut world = world()?;
        for share in ["d", "layers"] {
            let workers = begin(&world, share)?;
            for _ in 0..25 {
                world.crash_worker()?;
                workers.iter().try_for_each(Worker::await_round)?;
            }
            world.sharectl(&["restart", "sharefs"])?.success()?;
            workers.iter().try_for_each(Worker::await_round)?;
            end(&world, share, workers)?;
        }
        ensure!(number(&world, "sharectl_sharefs_restarts")? == 50);
        ensure!(number(&world, "sharectl_sharefs_handovers")? == 2);
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        wait_for("connections to end", LONG, || {
            let left = number(&world, "sharectl_sharefs_ninep_connected")?;
            Ok((left == 0).then_some(()))
        })?;
        Ok(())
    });
}

#[test]
fn a_request_is_done_once_and_answered_once_wherever_its_daemon_died() {
    whole_system(|| {
        let mut world = world()?;
        let order = world.path("die");
        let points = [
            "taken 7",
            "done 5",
            "done 11",
            "answered 5",
            "answered 8",
            "told 3",
            // Before it is begun, and again when it was done again.
            "taken 7\ndone 1",
        ];
        for die in points {
            for share in ["d", "layers"] {
                let before = world.worker_deaths()?;
                let workers = begin(&world, share)?;
                world.write(&order, die)?;
                world.kill_worker()?;
                wait_for("deaths", LONG, || {
                    let ended = workers.iter().any(|worker| worker.thread.is_finished());
                    let enough = world.worker_deaths()? > before + 40;
                    Ok((enough || ended).then_some(()))
                })?;
                fs::remove_file(&order)?;
                end(&world, share, workers).with_context(|| format!("{die:?} in {share}"))?;
            }
        }
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        Ok(())
    });
}

#[test]
fn a_request_that_kills_whoever_takes_it_up_is_an_error_and_the_connection_lives_on() {
    whole_system(|| {
        let mut world = world()?;
        let order = world.path("die");
        let mut client = Client::attach(&socket(&world), "d")?;
        let mut other = Client::attach(&socket(&world), "d")?;
        for (kind_of, body) in [walk(ROOT, LOG, &[]), create(LOG, "log", READ_WRITE)] {
            client.ask(kind_of, body)?;
        }
        let before = number(&world, "sharectl_sharefs_restarts")?;
        world.write(&order, "done 1")?;
        world.crash_worker()?;
        let (kind_of, body) = write(LOG, 0, b"deadly");
        let tags = client.send([(kind_of, body)])?;
        let (kind_of, body) = client.answer(*tags.first().context("a tag")?)?;
        ensure!(refusal(kind_of, &body) == Some(EIO), "{kind_of} {body:?}");
        fs::remove_file(&order)?;
        world.crash_worker()?;
        let deaths = number(&world, "sharectl_sharefs_restarts")? - before;
        ensure!(deaths >= 4, "{deaths}");
        let (kind_of, body) = write(LOG, 0, b"alive!");
        client.ask(kind_of, body)?;
        ensure!(fs::read_to_string(world.share_folder("d")?.join("log"))? == "alive!");
        let (kind_of, body) = walk(ROOT, FILE, &["log"]);
        other.ask(kind_of, body)?;
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        Ok(())
    });
}

/// Two clients with the log open, of which the first has locked it for process 7.
fn holder_and_another(world: &World) -> Result<(Client, Client)> {
    let mut holder = Client::attach(&socket(world), "d")?;
    let mut other = Client::attach(&socket(world), "d")?;
    for client in [&mut holder, &mut other] {
        for (kind_of, body) in [walk(ROOT, LOG, &[]), create(LOG, "log", READ_WRITE)] {
            client.ask(kind_of, body)?;
        }
    }
    let (kind_of, body) = lock(LOG, WRITE_LOCK, false, 7);
    ensure!(holder.ask(kind_of, body)? == [0]);
    Ok((holder, other))
}

#[test]
fn what_kills_whoever_is_to_answer_it_later_is_an_error_and_the_connection_lives_on() {
    whole_system(|| {
        let mut world = world()?;
        let order = world.path("die");
        let (mut holder, mut client) = holder_and_another(&world)?;
        let sync = || (kind::FSYNC, Body::new().word(LOG).word(0));
        // Three that it killed, or six that may have died of something else; and the two that are killed here.
        for (point, request, most) in [
            ("retried 1", lock(LOG, WRITE_LOCK, true, 8), 5),
            ("slow 1", sync(), 8),
        ] {
            let before = number(&world, "sharectl_sharefs_restarts")?;
            world.write(&order, point)?;
            world.crash_worker()?;
            let tags = client.send([request])?;
            let (kind_of, body) = client.answer(*tags.first().context("a tag")?)?;
            ensure!(
                refusal(kind_of, &body) == Some(EIO),
                "{point}: {kind_of} {body:?}"
            );
            fs::remove_file(&order)?;
            world.crash_worker()?;
            let deaths = number(&world, "sharectl_sharefs_restarts")? - before;
            ensure!(deaths == most, "{point}: {deaths}");
        }
        let (kind_of, body) = sync();
        client.ask(kind_of, body)?;
        let waits = client.send([lock(LOG, WRITE_LOCK, true, 8)])?;
        let (kind_of, body) = lock(LOG, UNLOCK, false, 7);
        holder.ask(kind_of, body)?;
        ensure!(client.granted(waits[0], kind::LOCK)? == [0], "it came");
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        Ok(())
    });
}

#[test]
fn locks_waits_and_half_written_values_are_there_behind_a_killed_daemon() {
    whole_system(|| {
        let mut world = world()?;
        let (mut holder, mut waiter) = holder_and_another(&world)?;
        let waits = waiter.send([
            lock(LOG, WRITE_LOCK, true, 8),
            lock(LOG, WRITE_LOCK, true, 9),
        ])?;
        let [first, second] = waits[..] else {
            tests::bail!("{waits:?}");
        };
        // A value that is announced and half there, a place that is deep and has lost its name, and nothing said of
        // either for a while.
        let begun = [
            walk(ROOT, VALUE, &["log"]),
            (
                kind::XATTRCREATE,
                Body::new().word(VALUE).text("user.half").long(6).word(0),
            ),
            write(VALUE, 0, b"hal"),
            (
                kind::MKDIR,
                Body::new().word(ROOT).text("a").word(0o755).word(0),
            ),
            walk(ROOT, FOLDER, &["a"]),
            walk(FOLDER, FILE, &[]),
            create(FILE, "nameless", READ_WRITE),
            write(FILE, 0, b"still here"),
            unlink(FOLDER, "nameless", 0),
        ];
        for (kind_of, body) in begun {
            holder.ask(kind_of, body)?;
        }
        for _ in 0..3 {
            world.crash_worker()?;
        }
        let refused = waiter.send([lock(LOG, WRITE_LOCK, false, 10)])?;
        ensure!(waiter.granted(refused[0], kind::LOCK)? == [1], "it is held");
        // One of the two waits is taken back, and never answered.
        waiter.ask(kind::FLUSH, Body::new().short(second))?;
        world.crash_worker()?;
        let (kind_of, body) = lock(LOG, UNLOCK, false, 7);
        holder.ask(kind_of, body)?;
        ensure!(waiter.granted(first, kind::LOCK)? == [0], "it came");
        world.crash_worker()?;
        for (kind_of, body) in [write(VALUE, 3, b"fed"), one(kind::CLUNK, VALUE)] {
            holder.ask(kind_of, body)?;
        }
        let asked = Body::new().word(LOG).word(VALUE).text("user.half");
        holder.ask(kind::XATTRWALK, asked)?;
        world.crash_worker()?;
        let (kind_of, body) = read(VALUE, 0, 100);
        ensure!(holder.ask(kind_of, body)?.ends_with(b"halfed"));
        let (kind_of, body) = read(FILE, 0, 100);
        ensure!(holder.ask(kind_of, body)?.ends_with(b"still here"));
        let (kind_of, body) = walk(FOLDER, LIST, &["..", "log"]);
        ensure!(
            holder.ask(kind_of, body)?.len() == 2 + 2 * 13,
            "back by the way it came"
        );
        // A connection begins anew, and nothing of before is in its way.
        holder.ask(kind::VERSION, Body::new().word(8192).text("9P2000.L"))?;
        world.crash_worker()?;
        let attach = Body::new()
            .word(ROOT)
            .word(u32::MAX)
            .text("")
            .text("d")
            .word(0);
        holder.ask(kind::ATTACH, attach)?;
        let (kind_of, body) = walk(ROOT, LOG, &["log"]);
        holder.ask(kind_of, body)?;
        Ok(())
    });
}

#[test]
fn a_write_whose_daemon_died_before_all_of_it_had_come_is_done_as_a_whole() {
    whole_system(|| {
        let mut world = world()?;
        let mut client = Client::attach(&socket(&world), "d")?;
        for (kind_of, body) in [walk(ROOT, FILE, &[]), create(FILE, "large", READ_WRITE)] {
            client.ask(kind_of, body)?;
        }
        let data: Vec<u8> = (0..1_000_000_u32)
            .map(|at| (at % 251).to_le_bytes()[0])
            .collect();
        let file = world.path("shared/d/large");
        let (tag, rest) = client.send_part(write(FILE, 0, &data), 700_000)?;
        wait_for("the first of it in the file", LONG, || {
            Ok((fs::metadata(&file)?.len() > 100_000).then_some(()))
        })?;
        // The next one cannot know how far this one came, and need not.
        fs::write(&file, "")?;
        world.crash_worker()?;
        client.send_rest(&rest)?;
        let written = client.granted(tag, kind::WRITE)?;
        ensure!(written == 1_000_000_u32.to_le_bytes(), "{written:?}");
        ensure!(fs::read(&file)? == data);

        // One that dies of a part is followed by one that waits for the whole: it would die again, and its follower.
        fs::write(&file, "")?;
        let order = world.path("die");
        let before = world.worker_deaths()?;
        world.write(&order, "part 1")?;
        world.crash_worker()?;
        let (tag, rest) = client.send_part(write(FILE, 0, &data), 700_000)?;
        wait_for("its death", LONG, || {
            Ok((world.worker_deaths()? == before + 2).then_some(()))
        })?;
        client.send_rest(&rest)?;
        let written = client.granted(tag, kind::WRITE)?;
        ensure!(written == 1_000_000_u32.to_le_bytes(), "{written:?}");
        ensure!(fs::read(&file)? == data);
        ensure!(world.worker_deaths()? == before + 2);
        fs::remove_file(&order)?;
        Ok(())
    });
}

#[test]
fn a_connection_whose_share_is_gone_or_another_ends_behind_a_killed_daemon() {
    whole_system(|| {
        let mut world = world()?;
        let mut stays = Client::attach(&socket(&world), "layers")?;
        let mut cut = Client::attach(&socket(&world), "d")?;
        let text = fs::read_to_string(world.path("config.toml"))?;
        let now = text.replacen(
            "guest-owner = \"0:0\"",
            "guest-owner = \"0:0\"\nread-only = true",
            1,
        );
        world.write(&world.path("config.toml"), now)?;
        world.crash_worker()?;
        ensure!(cut.is_cut()?);
        let (kind_of, body) = walk(ROOT, LOG, &[]);
        stays.ask(kind_of, body)?;
        Ok(())
    });
}

/// Works in the folder it is given until there is a file `stop`, and leaves a line of what went wrong, or of how
/// often it went round. What it appends is always the same.
const WORK: &str = r#"
cd $1; rounds=0; fail() { echo "round $rounds: $*" > result; exit 1; }
while [ ! -e stop ]; do
    mkdir t || fail mkdir
    for i in 1 2 3 4 5; do
        (set -C; echo "$rounds $i" > t/f$i) || fail create
        mv t/f$i t/g$i || fail rename
    done
    ln t/g1 t/hard || fail link
    ln -s g2 t/soft || fail symlink
    [ "$(cat t/g? t/soft | wc -l)" = 6 ] || fail read
    echo same >> log || fail append
    [ "$(ls t | wc -l)" = 7 ] || fail list
    chmod 600 t/g1 || fail chmod
    rm t/hard t/soft t/g? || fail unlink
    rmdir t || fail rmdir
    rounds=$((rounds + 1))
done
echo "good $rounds" > result
"#;

/// Holds two locks, an open file and one without a name until there is a file `finish`; then it goes on with the files.
/// A second process waits for a lock of it meanwhile.
const HOLD: &str = r#"
use Fcntl qw(:DEFAULT :flock :seek); chdir "/mnt" or die "chdir: $!";
my $range = pack("s s x4 q q i x4", F_WRLCK, 0, 0, 6, 0);
sysopen(F, "lock", O_RDWR|O_CREAT) or die "open: $!"; flock(F, LOCK_EX|LOCK_NB) or die "flock: $!";
sysopen(G, "range", O_RDWR|O_CREAT) or die; fcntl(G, F_SETLK, $range) or die "fcntl: $!";
sysopen(N, "nameless", O_RDWR|O_CREAT|O_EXCL) or die; syswrite(N, "still here"); unlink "nameless" or die;
sysopen(O, "open", O_WRONLY|O_CREAT) or die; syswrite(O, "one\n");
my $waiter = fork // die;
if (!$waiter) {
    sysopen(W, "range", O_RDWR) or die; sysopen(H, "awaits", O_WRONLY|O_CREAT) or die; close H;
    fcntl(W, F_SETLKW, $range) or die "wait: $!"; sysopen(H, "got", O_WRONLY|O_CREAT) or die; exit 0;
}
select(undef, undef, undef, 0.05) until -e "awaits"; sysopen(H, "held", O_WRONLY|O_CREAT) or die; close H;
select(undef, undef, undef, 0.05) until -e "finish";
-e "got" and die "two have the lock";
syswrite(O, "two\n") or die "write: $!"; sysseek(N, 0, SEEK_SET); sysread(N, my $read, 100) or die "read: $!";
syswrite(O, $read) or die; my $none = pack("s s x4 q q i x4", F_UNLCK, 0, 0, 6, 0);
fcntl(G, F_SETLK, $none) or die "unlock: $!"; waitpid($waiter, 0); $? == 0 or die "waiter: $?";
sysopen(H, "finished", O_WRONLY|O_CREAT) or die;
"#;

/// Awaits a file of the share on the host, and says what else happened if it does not come.
fn soon(world: &World, guest: &Guest, name: &str) -> Result<()> {
    let path = world.share_folder("d")?.join(name);
    let came = wait_for(name, LONG, || Ok(path.exists().then_some(())));
    if came.is_err() {
        let said = guest.run("cat /tmp/said /tmp/held; dmesg | tail -5")?;
        return came.with_context(|| said.stdout);
    }
    Ok(())
}

#[test]
fn a_guest_that_has_mounted_a_share_by_tcp_outlives_killed_daemons_and_another_program() {
    whole_system(|| {
        let mut world = world()?;
        let d = world.share_folder("d")?;
        let guest = world
            .machine("dev", &[("host", "/host")])?
            .module("9p")
            .module("9pnet_fd")
            .boot()?;
        guest.address(LONG)?;
        guest.ok(
            "mkdir -p /mnt/d && mount -t 9p -o trans=tcp,version=9p2000.L,msize=1048576,cache=mmap,aname=d \
             192.168.130.1 /mnt/d && mount --bind /mnt/d /host/mnt",
        )?;
        let quoted = |text: &str| text.replace('\'', r"'\''");
        guest.ok(&format!(
            "chroot /host perl -e '{}' < /dev/null > /tmp/held 2>&1 &",
            quoted(HOLD)
        ))?;
        soon(&world, &guest, "held")?;
        guest.ok(&format!(
            "printf '%s' '{}' > /tmp/work && (sh /tmp/work /mnt/d < /dev/null > /tmp/said 2>&1 &)",
            quoted(WORK)
        ))?;
        for turn in 0..20 {
            if turn == 10 {
                world.sharectl(&["restart", "sharefs"])?.success()?;
            } else {
                world.crash_worker()?;
            }
            wait_for("the guest to go on", LONG, || {
                let requests = number(&world, "sharectl_sharefs_ninep_requests")?;
                Ok((requests > 60 || d.join("result").exists()).then_some(()))
            })?;
        }
        ensure!(!d.join("got").exists(), "the lock is held");
        world.write(&d.join("stop"), "")?;
        soon(&world, &guest, "result")?;
        wait_for("the result", LONG, || {
            Ok(fs::read_to_string(d.join("result"))?
                .contains('\n')
                .then_some(()))
        })?;
        let result = fs::read_to_string(d.join("result"))?;
        let rounds = result.trim().strip_prefix("good ");
        let rounds: usize = rounds
            .and_then(|rounds| rounds.parse().ok())
            .with_context(|| result.clone())?;
        let log = fs::read_to_string(d.join("log"))?;
        ensure!(
            rounds > 0 && log == "same\n".repeat(rounds),
            "{rounds}: {log}"
        );
        world.write(&d.join("finish"), "")?;
        soon(&world, &guest, "finished")?;
        ensure!(fs::read_to_string(d.join("open"))? == "one\ntwo\nstill here");
        ensure!(number(&world, "sharectl_sharefs_given_up")? == 0);
        // It ends as any other does.
        guest.ok("umount /host/mnt && umount /mnt/d")?;
        Ok(())
    });
}
