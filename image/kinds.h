/*
 * The kinds of record in an image. A kind has a number that never changes its meaning, a name
 * (dmtcp_inspect and error messages use it), and its message in image/<name>.proto.
 */
#ifndef IMAGE_KINDS_H
#define IMAGE_KINDS_H

#include <stdbool.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

/* Records of the process itself, at most one each unless said otherwise. */
#define KIND_HEAD    1 /* image.proto: ImageHead, always the first record */
#define KIND_PROCESS 2 /* process.proto */
#define KIND_THREAD  3 /* thread.proto, one per thread */
#define KIND_SIGNAL  4 /* signal.proto: dispositions, process-wide pending signals */
#define KIND_TIMER   5 /* timer.proto: itimers and POSIX timers */
#define KIND_MM      6 /* mm.proto: layout and mappings; contents are in the page store */
#define KIND_FDTABLE 7 /* fd.proto: fd number -> open file description, close-on-exec, POSIX locks */

/* Objects: any number each, every one with an id that is unique in the checkpoint of a host. */
#define KIND_OFD 31 /* fd.proto: an open file description, refers to one of the objects below */
#define KIND_FILE      32 /* regular files, directories, O_PATH, devices, FIFOs by path */
#define KIND_PIPE      33
#define KIND_EVENTFD   34
#define KIND_SIGNALFD  35
#define KIND_TIMERFD   36
#define KIND_EPOLL     37
#define KIND_INOTIFY   38
#define KIND_FANOTIFY  39
#define KIND_PIDFD     40
#define KIND_TTY       41 /* pseudo-terminals and the outside terminal */
#define KIND_MEMFD     42
#define KIND_SHM       43 /* shared memory: anonymous, memfd, deleted and tmpfs files: content */
#define KIND_UNIX      44
#define KIND_INET      45 /* TCP, UDP, UDP-Lite, ICMP, raw over IPv4 and IPv6 */
#define KIND_PACKET    46
#define KIND_NETLINK   47
#define KIND_SYSV      48
#define KIND_MQUEUE    49
#define KIND_IOURING   50
#define KIND_AIO       51
#define KIND_NSFD      52
#define KIND_USERFAULT 53
#define KIND_OUTSIDE   54 /* a standard stream that leads outside the tree */
#define KIND_PLUGIN    55 /* what a plugin kept, of the tree or of a description that it claimed */

#define KIND_MAX 64

const char *kind_name(uint32_t kind); /* "pipe", … or "unknown" */

/* Whether the number is one of the above; then it is below KIND_MAX. */
bool kind_known(uint32_t kind);

/* The descriptor of its message; NULL for an unknown kind and for one that has no message yet. */
const ProtobufCMessageDescriptor *kind_message(uint32_t kind);

#endif
