#define WIDTH 8
#define NAME kAvx2Kernels
#define LABEL "avx2"
#include "kernels.inc"
