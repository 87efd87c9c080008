# Redis that acknowledges a write only after it has forced it to the disk.
service=redis
ready_line="Ready to accept connections"
disk=required

service_run() {
    # The append-only file is rewritten in a forked child, which must not fail for lack of promised memory.
    echo 1 > /proc/sys/vm/overcommit_memory
    mkdir -p /data/redis
    chown redis:redis /data/redis
    exec start-stop-daemon -S -c redis:redis -x /usr/bin/redis-server -- \
        --bind 0.0.0.0 --port 6379 --protected-mode no --daemonize no \
        --dir /data/redis --appendonly yes --appendfsync always --save ""
}

service_stop() {
    stop_process redis-server TERM
}
