// SPDX-License-Identifier: GPL-2.0-only
/* The variant whose table names vendor and device. */
#define LAB_SUB(id)	PCI_ANY_ID
#include "variant.c"
