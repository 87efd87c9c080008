# PostgreSQL 15 with Debian's defaults; trusts its network, because that network is the lab's own.
service=postgres
ready_line="database system is ready to accept connections"
disk=required
programs=/usr/lib/postgresql/15/bin

as_postgres() {
    program=$1
    shift
    start-stop-daemon -S -c postgres:postgres -x "$program" -- "$@"
}

# Into a directory of another name first: a power cut leaves either a whole database or none.
create_database() {
    rm -rf /data/postgres.new
    mkdir -m 700 /data/postgres.new
    chown postgres:postgres /data/postgres.new
    as_postgres $programs/initdb -D /data/postgres.new --username=postgres --auth=trust --no-locale \
        --encoding=UTF8 --no-sync || return
    echo "host all all all trust" >> /data/postgres.new/pg_hba.conf
    sync
    mv /data/postgres.new /data/postgres
    sync
}

service_run() {
    cd /
    mkdir -p /run/postgresql
    chown postgres:postgres /run/postgresql
    [ -d /data/postgres ] || create_database || exit
    as_postgres $programs/postgres -D /data/postgres -c listen_addresses='*' -c port=5432 \
        -c unix_socket_directories=/run/postgresql -c shared_buffers=32MB -c jit=off
}

# SIGINT to the postmaster alone is PostgreSQL's fast shutdown.
service_stop() {
    read -r postmaster < /data/postgres/postmaster.pid || return 0
    kill -INT "$postmaster"
    stop_process postgres 0
}
