// SPDX-License-Identifier: GPL-2.0-only
/* The variant whose table names the subsystem too. */
#define LAB_SUB(id)	(id)
#include "variant.c"
