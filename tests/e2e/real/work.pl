#!/usr/bin/perl
# Hashes, sorting, regular expressions, children with pipes, signals and an alarm; the same output each time.
use strict;
use warnings;

my $rounds = shift // 40;
my $caught = 0;
$SIG{USR1} = sub { $caught++ };
my $seed = 12345;
sub chance { $seed = ($seed * 1103515245 + 12345) % 2147483648; return $seed % $_[0]; }

for my $round (1 .. $rounds) {
    my %words;
    for (1 .. 8000) {
        my $word = join '', map { chr(97 + chance(5)) } 1 .. 4;
        $words{$word}++;
    }
    my @most = (sort { $words{$b} <=> $words{$a} || $a cmp $b } keys %words)[0 .. 4];
    print "$round: ", join(' ', map {"$_=$words{$_}"} @most), "\n";
    my $text = join ' ', sort keys %words;
    my $matches = () = $text =~ /\b(\w)\w*\1\b/g;
    print "matches $matches\n";
    $| = 1;
    $| = 0;
    pipe(my $from, my $to) or die;
    my $pid = fork() // die;
    if (!$pid) {
        close $from;
        print $to $_ * $round, "\n" for 1 .. 300;
        close $to;
        require POSIX;
        POSIX::_exit($round % 100);
    }
    close $to;
    kill USR1 => $$;
    my $sum = 0;
    while (my $line = <$from>) { $sum += $line }
    waitpid $pid, 0;
    print "child: sum $sum, status ", $? >> 8, "\n";
    my $shell = `echo $round | tr 0-9 a-j`;
    print "shell: $shell";
}
print "caught $caught\nend\n";
