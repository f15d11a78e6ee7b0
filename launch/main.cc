// SPDX-License-Identifier: Apache-2.0
#include "launch/program.h"

int main(int argc, char** argv) { return rankwise::run_program(argc, argv); }
