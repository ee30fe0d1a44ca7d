/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * columns.h - every column of every report, as data. Included with CHAIN() and
 * LAYER() defined to what is wanted: (id, heading, type, key, help); key is the member
 * of the facts (facts.h, image_info.h) that the column shows.
 */
CHAIN("chain_name", "Chain", COL_TEXT, "name", "name of the chain")
CHAIN("chain_attr", "Attr", COL_TEXT, "attr",
      "1 w(ritable) or r(ead-only); 2 a(ctive); 3 device o(pen); 4 u(blk), f(use) or n(o device); "
      "5 under device-m(apper); 6 x: a fault")
CHAIN("chain_active", "Active", COL_BOOL, "active", "a daemon serves it")
CHAIN("chain_defined", "Defined", COL_BOOL, "defined", "it has a definition that survives boot")
CHAIN("chain_size", "CSize", COL_SIZE, "size", "size of the device")
CHAIN("chain_disk", "CDisk", COL_SIZE, "disk", "what all its layers occupy on the host")
CHAIN("chain_depth", "#Lay", COL_NUMBER, "depth", "number of layers")
CHAIN("chain_device", "Device", COL_TEXT, "device", "the block device")
CHAIN("chain_link", "Link", COL_TEXT, "device-link", "the device by the chain's name")
CHAIN("chain_node", "Node", COL_TEXT, "node", "the kernel's device behind it")
CHAIN("chain_kind", "Kind", COL_TEXT, "kind", "how the device is made (or shall be): ublk, fuse, none, auto")
CHAIN("chain_number", "Number", COL_NUMBER, "number", "N of /dev/qchainN")
CHAIN("chain_image", "Image", COL_TEXT, "image", "the active image")
CHAIN("chain_format", "Format", COL_TEXT, "format", "format of the active image")
CHAIN("chain_engine", "Engine", COL_TEXT, "engine", "how I/O is done: uring, aio")
CHAIN("chain_cache", "Cache", COL_TEXT, "cache", "none (direct I/O) or writeback")
CHAIN("chain_open", "Open", COL_BOOL, "in-use", "someone has the device open")
CHAIN("chain_used_by", "UsedBy", COL_TEXT, "used-by", "who has the device open")
CHAIN("chain_pid", "PID", COL_NUMBER, "pid", "the daemon's process")
CHAIN("chain_fault", "Fault", COL_TEXT, "fault", "what is wrong with it")
LAYER("layer_name", "Layer", COL_TEXT, "node-name", "node name of the layer")
LAYER("layer_index", "Idx", COL_NUMBER, "index", "0 is the base")
LAYER("layer_role", "Role", COL_TEXT, "role", "base, overlay or active")
LAYER("layer_format", "Format", COL_TEXT, "format", "qcow2 or raw")
LAYER("layer_size", "LSize", COL_SIZE, "size", "virtual size")
LAYER("layer_disk", "LDisk", COL_SIZE, "disk", "what it occupies on the host")
LAYER("layer_cluster", "Cluster", COL_SIZE, "cluster-size", "cluster size")
LAYER("layer_unit", "Unit", COL_SIZE, "unit", "smallest unit of allocation")
LAYER("layer_readonly", "RO", COL_BOOL, "read-only", "it takes no writes")
LAYER("layer_backing", "Backing", COL_TEXT, "backing", "backing file as its header names it")
LAYER("layer_backing_format", "BFormat", COL_TEXT, "backing-format", "backing format as its header names it")
LAYER("layer_data_file", "DataFile", COL_TEXT, "data-file", "external data file")
LAYER("layer_file", "File", COL_TEXT, "file", "the image file")
LAYER("layer_fault", "LFault", COL_TEXT, "fault", "why it turned read-only")
