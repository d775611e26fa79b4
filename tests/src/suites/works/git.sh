# git: a repository with history, cloned, switched, packed and checked. Nothing may look changed that is not.
git=/mnt/git
rm -rf "$git" && mkdir "$git" && cd "$git"
git config --global user.name test && git config --global user.email test@example.invalid
git config --global init.defaultBranch main && git config --global gc.autoDetach false

git init -q origin && cd origin
i=0
while [ $i -lt "$SIZE" ]; do
    [ $((i % 20)) = 0 ] && mkdir -p "d$((i / 20))"
    echo "file $i" > "d$((i / 20))/f$i"
    i=$((i + 1))
done
ln -s d0/f0 link
printf '#!/bin/sh\n' > run.sh && chmod 755 run.sh
git add -A && git commit -q -m one
git checkout -q -b other
git mv d0 moved && echo more >> moved/f1 && git rm -q -f moved/f2 && git commit -q -a -m two
git checkout -q main
[ -f d0/f2 ] && [ ! -e moved ]
[ -z "$(git status --porcelain)" ]

git clone -q --no-hardlinks . ../clone && cd ../clone
[ -z "$(git status --porcelain)" ]
[ "$(readlink link)" = d0/f0 ] && [ -x run.sh ]
git checkout -q other && [ "$(cat moved/f1)" = "file 1
more" ]
git merge -q origin/main
echo changed > run.sh
[ "$(git status --porcelain)" = ' M run.sh' ]
git stash -q && [ -z "$(git status --porcelain)" ] && git stash pop -q
git commit -q -a -m three && git gc -q --prune=now
git fsck --full --strict 2>&1 | grep -v '^dangling' && exit 1
[ "$(git ls-files | wc -l)" = $((SIZE + 1)) ]
git push -q origin other:pushed
cd ../origin && git fsck --full && git log -1 --format=%s pushed | grep -qx three
cd / && rm -rf "$git"
