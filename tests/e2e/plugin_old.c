/* A plugin of another version of the API, which the loader cannot get rid of again (-z nodelete). */
#include <dmtcp_plugin.h>

const struct dmtcp_plugin dmtcp_plugin = {.api = DMTCP_PLUGIN_API + 1, .name = "old"};
