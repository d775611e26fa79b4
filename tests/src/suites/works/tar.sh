# tar: an archive that the host made is unpacked, compared byte for byte with owners, modes and times, packed
# again, and the tree removed. What is unpacked stays for the host to look at.
cd /mnt/tar
tar -xf tree.tar
tar -df tree.tar
[ "$(find tree | wc -l)" = "$(tar -tf tree.tar | wc -l)" ]
tar -cf /tmp/again.tar tree && tar -df /tmp/again.tar && rm /tmp/again.tar
cp -a tree copy
diff -r --no-dereference tree copy
rm -r copy
