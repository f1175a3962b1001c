/* Sockets of families that can't be saved, and what they are called: a refusal names the thing. */
#include <errno.h>

#include "base/util.h"
#include "tracer/socket.h"

/* linux/socket.h; those that are saved are here too, for sockets of sorts of theirs that nothing handles. */
static const struct {
    int family;
    const char *name;
} families[] = {
    {AF_UNIX, "unix"},        {AF_INET, "IPv4"},       {AF_AX25, "AX.25"},   {AF_IPX, "IPX"},
    {AF_APPLETALK, "AppleTalk"}, {AF_NETROM, "NET/ROM"}, {AF_ATMPVC, "ATM PVC"}, {AF_X25, "X.25"},
    {AF_INET6, "IPv6"},       {AF_ROSE, "ROSE"},       {AF_KEY, "key management (AF_KEY)"},
    {AF_NETLINK, "netlink"},  {AF_PACKET, "packet"},   {AF_ECONET, "Econet"}, {AF_ATMSVC, "ATM SVC"},
    {AF_RDS, "RDS"},          {AF_PPPOX, "PPP (AF_PPPOX)"}, {AF_LLC, "LLC"},   {AF_IB, "InfiniBand (AF_IB)"},
    {AF_MPLS, "MPLS"},        {AF_CAN, "CAN"},         {AF_TIPC, "TIPC"},    {AF_BLUETOOTH, "Bluetooth"},
    {AF_RXRPC, "RxRPC"},      {AF_ISDN, "ISDN"},       {AF_PHONET, "Phonet"}, {AF_IEEE802154, "IEEE 802.15.4"},
    {AF_CAIF, "CAIF"},        {AF_ALG, "kernel crypto (AF_ALG)"}, {AF_NFC, "NFC"}, {AF_VSOCK, "vsock"},
    {AF_KCM, "KCM"},          {AF_QIPCRTR, "Qualcomm IPC router"}, {AF_SMC, "SMC"}, {AF_XDP, "XDP"},
    {45 /* AF_MCTP */, "MCTP"},
};

int socket_refuse(const struct fd_info *fi, struct err *err)
{
    _cleanup_close_ int fd = ckpt_get_fd(fi->proc, fi->fd, err);
    int family;

    if (fd < 0)
        return -err->code;
    family = sockopt_int(fd, SOL_SOCKET, SO_DOMAIN, -1);
    for (size_t i = 0; i < ARRAY_SIZE(families); i++)
        if (families[i].family == family)
            return err_set(err, ENOTSUP, "a socket of the family %s, which can't be saved", families[i].name);
    return err_set(err, ENOTSUP, "a socket of family %d, which can't be saved", family);
}
