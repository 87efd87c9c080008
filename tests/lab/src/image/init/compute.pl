# Answers each line on TCP port 7000, and each datagram on UDP port 7000, with "ROUND DIGEST LINE"; but
#   keep RUN NUMBER      is kept in memory, and answered with "ROUND DIGEST HEAD", the number of that run before, or 0
#   kept RUN FROM UPTO   is answered with "ROUND DIGEST N,N,...", those of the run that are kept
use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;

$SIG{PIPE} = 'IGNORE';
$| = 1;

sub progress {
    open my $file, '<', '/run/compute' or return '0 -';
    my $line = <$file> // '0 -';
    chomp $line;
    return $line;
}

my (%kept, %head);    # Numbers by run, and the last of each.

sub answer {
    my ($line) = @_;
    if ($line =~ /\Akeep ([a-z0-9-]{1,64}) ([0-9]{1,15})\z/) {
        my $before = $head{$1} // 0;
        $kept{$1}{$2} = 1;
        $head{$1} = $2;
        return progress() . " $before";
    }
    if ($line =~ /\Akept ([a-z0-9-]{1,64}) ([0-9]{1,15}) ([0-9]{1,15})\z/) {
        my $numbers = $kept{$1} // {};
        return progress() . ' ' . join ',', grep { $numbers->{$_} } $2 .. $3;
    }
    return progress() . " $line";
}

my $listener = IO::Socket::INET->new(LocalPort => 7000, Proto => 'tcp', Listen => 64, ReuseAddr => 1)
    or die "cannot listen on TCP port 7000: $@";
my $datagrams = IO::Socket::INET->new(LocalPort => 7000, Proto => 'udp')
    or die "cannot listen on UDP port 7000: $@";
my $select = IO::Select->new($listener, $datagrams);
my %rest;    # What a connection has sent of its next line.
print "compute listens\n";

while (1) {
    for my $socket ($select->can_read) {
        if ($socket == $listener) {
            my $client = $listener->accept or next;
            $select->add($client);
            $rest{$client} = '';
        } elsif ($socket == $datagrams) {
            my $peer = $datagrams->recv(my $line, 1400) // next;
            chomp $line;
            $datagrams->send(progress() . " $line\n", 0, $peer);
        } elsif (!sysread($socket, $rest{$socket}, 65536, length $rest{$socket}) || length $rest{$socket} > 1 << 20) {
            delete $rest{$socket};
            $select->remove($socket);
            close $socket;
        } else {
            syswrite $socket, answer($1) . "\n" while $rest{$socket} =~ s/\A([^\n]*)\n//;
        }
    }
}
