#!/bin/sh
# Obeys the host, by the second serial port: takes lines `ID SECONDS BASE64` and answers
# `ID STATUS BASE64-STDOUT BASE64-STDERR`.

stty -F /dev/ttyS1 raw -echo
exec 3<> /dev/ttyS1
echo READY >&3
while read -r id seconds code <&3; do
    echo "$code" | base64 -d > "/run/command.$id"
    timeout -s KILL "$seconds" sh "/run/command.$id" \
        < /dev/null > "/run/stdout.$id" 2> "/run/stderr.$id" 3>&-
    status=$?
    echo "$id $status =$(base64 -w 0 < "/run/stdout.$id") =$(base64 -w 0 < "/run/stderr.$id")" >&3
    rm -f "/run/command.$id" "/run/stdout.$id" "/run/stderr.$id"
done
