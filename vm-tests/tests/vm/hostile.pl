# A supervisor that does its worst: it answers each request to end with a request for more time, its children ignore
# signals and one of them is another process every tenth of a second.
use strict;
use warnings;
use POSIX ();
use Socket;

my $to = $ENV{NOTIFY_SOCKET} // die "no NOTIFY_SOCKET\n";
$to =~ s/^@/\0/;
socket(my $socket, PF_UNIX, SOCK_DGRAM, 0) or die "socket: $!\n";
my $address = pack_sockaddr_un($to);
sub notify { send($socket, $_[0], 0, $address) }
sub longer { notify("EXTEND_TIMEOUT_USEC=1000000000000000") }

$SIG{$_} = \&longer for qw(TERM INT HUP);
for (1 .. 10) {
    next if fork;
    POSIX::setsid();
    $SIG{$_} = 'IGNORE' for qw(TERM INT HUP QUIT USR1 USR2 PIPE);
    sleep 1 while 1;
}
unless (fork) {
    POSIX::setsid();
    $SIG{$_} = 'IGNORE' for qw(TERM INT HUP CHLD);
    while (1) {
        select(undef, undef, undef, 0.1);
        exit 0 if fork;
    }
}
notify("READY=1");
while (1) {
    notify("WATCHDOG=1");
    longer();
    select(undef, undef, undef, 0.5);
}
