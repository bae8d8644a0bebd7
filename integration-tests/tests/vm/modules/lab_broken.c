// SPDX-License-Identifier: MIT OR Apache-2.0
/* A version that a health check must find: nothing can be written any more. */
#define VERSION "v3"
#define ANSWER -EIO
#include "lab_patch.h"

MODULE_DESCRIPTION("A live patch for lab_device that breaks it");
