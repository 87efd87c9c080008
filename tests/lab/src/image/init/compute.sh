# Work for the processor, and a port that tells how far it came.
#
# Round n compresses 16,384 lines holding the digest of round n-1 and takes the SHA-256 of the result, so the digest of
# a round is a function of its number alone. TCP and UDP port 7000 answer a line with "ROUND DIGEST LINE", and keep
# numbers in memory.
service=compute
ready_line="compute listens"
disk=optional

work() {
    round=0
    digest=0000000000000000000000000000000000000000000000000000000000000000
    while :; do
        echo "$round $digest" > /run/compute.new
        mv /run/compute.new /run/compute
        # Debian's own programs, dynamically linked; busybox would run its own.
        digest=$(/usr/bin/yes "$digest" | /usr/bin/head -n 16384 | /usr/bin/gzip -n -9 | /usr/bin/sha256sum)
        digest=${digest%% *}
        round=$((round + 1))
    done
}

service_run() {
    echo "0 -" > /run/compute
    work &
    exec perl /etc/antipode/compute.pl
}

service_stop() {
    stop_process perl TERM
}
