/* Numbers used in inet.proto and unix.proto. They are part of the image format and never change. */
#ifndef IMAGE_SOCKET_H
#define IMAGE_SOCKET_H

#define PEER_NONE    0u /* Inet.peer_state, Unix.peer_state */
#define PEER_OBJECT  1u
#define PEER_WAITING 2u
#define PEER_CLOSED  3u
#define PEER_OUTSIDE 4u

#define EXT_KEEP  1u /* Inet.ext */
#define EXT_RESET 2u

#define UNIX_IDLE      1u /* Unix.state */
#define UNIX_LISTENING 2u
#define UNIX_CONNECTED 3u

#endif
