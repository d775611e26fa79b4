# cargo build of a crate and its neighbours on the share, with the host's toolchain; a second build finds nothing
# to do, and a change is seen.
rm -rf /mnt/cargo && mkdir /mnt/cargo && cd /mnt/cargo
mkdir -p app/src left/src right/src
for crate in left right; do
    printf '[package]\nname = "%s"\nversion = "1.0.0"\nedition = "2021"\n' $crate > $crate/Cargo.toml
    echo "pub fn number() -> u32 { 20 }" > $crate/src/lib.rs
done
printf '[package]\nname = "app"\nversion = "1.0.0"\nedition = "2021"\n[dependencies]\nleft = { path = "../left" }\nright = { path = "../right" }\n' > app/Cargo.toml
echo 'fn main() { println!("{}", left::number() + right::number()) }' > app/src/main.rs
cd app
cargo build --offline --quiet
[ "$(target/debug/app)" = 40 ]
cargo build --offline --verbose 2>&1 | grep -q 'Fresh app'
echo "pub fn number() -> u32 { 22 }" > ../left/src/lib.rs
cargo build --offline --quiet
[ "$(target/debug/app)" = 42 ]
cd / && rm -rf /mnt/cargo
