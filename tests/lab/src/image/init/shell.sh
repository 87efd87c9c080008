# A shell on the first serial port, with Debian's own dynamically linked tools.
service=shell
ready_line="shell on ttyS0"
disk=optional

service_run() {
    echo "$ready_line"
    cd /root
    export PS1='guest:\w\$ '
    while :; do
        # Opening the terminal as a session's leader makes it the controlling one: Ctrl-C works.
        setsid /usr/bin/dash -c 'exec /usr/bin/bash -l <> /dev/ttyS0 >&0 2>&1'
    done
}

service_stop() {
    :
}
