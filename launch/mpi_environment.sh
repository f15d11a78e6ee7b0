# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Sourced by scripts that start ranks on this one machine. Open MPI refuses root and more ranks than
# cores, and warns about hardware a laptop or a container does not have, unless told otherwise.
export OMPI_ALLOW_RUN_AS_ROOT=1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_btl_base_warn_component_unused=0
export OMPI_MCA_btl_vader_single_copy_mechanism=none
# Without ssh the default launcher prints an error although no other host is used.
if ! command -v ssh >/dev/null && ! command -v rsh >/dev/null; then
  export OMPI_MCA_plm=isolated
fi
