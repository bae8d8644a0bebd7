// SPDX-License-Identifier: MIT OR Apache-2.0
/* The version that is wanted. */
#define VERSION "v2"
#include "lab_patch.h"

MODULE_DESCRIPTION("A live patch for lab_device");
