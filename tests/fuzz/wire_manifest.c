/* Fuzz target: a manifest. What is accepted must come out of the writer as something that means the same. */
#include <string.h>

#include "base/manifest.h"
#include "base/util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct manifest *m = NULL, *again = NULL;
    _cleanup_free_ char *text = NULL, *text_again = NULL;
    struct err err = {0};

    if (manifest_parse((const char *)data, size, &m, &err) < 0)
        return 0;
    text = manifest_format(m);
    if (!text || manifest_parse(text, strlen(text), &again, &err) < 0)
        abort();
    text_again = manifest_format(again);
    if (!text_again || strcmp(text, text_again) != 0)
        abort();
    manifest_free(m);
    manifest_free(again);
    return 0;
}
