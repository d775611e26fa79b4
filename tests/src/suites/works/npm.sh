# npm install of packages in a folder, without any network: unpacking, links between packages, scripts in .bin.
rm -rf /mnt/npm && mkdir -p /mnt/npm/registry /mnt/npm/app && cd /mnt/npm/registry
i=0
while [ $i -lt "$SIZE" ]; do
    mkdir -p "p$i/lib"
    echo "{\"name\":\"p$i\",\"version\":\"1.0.0\",\"bin\":{\"p$i\":\"run.js\"},\"main\":\"lib/0.js\"}" > "p$i/package.json"
    printf '#!/usr/bin/env node\nconsole.log(require("./lib/0.js"))\n' > "p$i/run.js"
    n=0
    while [ $n -lt 40 ]; do
        echo "module.exports = $i" > "p$i/lib/$n.js"
        n=$((n + 1))
    done
    tar -czf "p$i.tgz" --transform "s,^p$i,package," "p$i"
    i=$((i + 1))
done
cd ../app
echo '{"name":"app","version":"1.0.0"}' > package.json
npm install --offline --no-audit --no-fund --no-update-notifier --cache /mnt/npm/cache ../registry/p*.tgz
[ "$(find node_modules -name '*.js' | wc -l)" = $((SIZE * 41)) ]
[ "$(node_modules/.bin/p0)" = 0 ]
npm ls --offline --no-update-notifier > /dev/null
rm -rf node_modules
npm ci --offline --no-audit --no-fund --no-update-notifier --cache /mnt/npm/cache
[ "$(node_modules/.bin/p1)" = 1 ]
cd / && rm -rf /mnt/npm
