#define WIDTH 4
#define NAME kPortableKernels
#define LABEL "portable"
#include "kernels.inc"
