// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <hdf5.h>

#include <functional>

#include "runtime/io/atomic_file.h"
#include "runtime/io/hdf5_handle.h"
#include "tests/fuzz/hostile_inputs.h"
#include "tests/fuzz/sandbox.h"

namespace rankwise::testing {
namespace {

using Edit = std::function<void(hid_t file)>;

void write_attribute(hid_t object, const char* name, hid_t type, const void* value,
                     hsize_t count = 1) {
  const hid_t space = H5Screate_simple(1, &count, nullptr);
  const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, type, value);
  H5Aclose(attribute);
  H5Sclose(space);
}

void write_text_attribute(hid_t object, const char* name, const std::string& text) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, text.size());
  write_attribute(object, name, type, text.data());
  H5Tclose(type);
}

void mark_as_store(hid_t file) {
  write_text_attribute(file, "format", "rankwise-quantized-store");
  const int64_t version = 1;
  write_attribute(file, "version", H5T_STD_I64LE, &version);
}

// A file with these properties and content, as bytes.
std::string file_of(hid_t creation, H5F_libver_t oldest, const Edit& edit) {
  const std::string path = Sandbox::instance().root() + "/made.h5";
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, oldest, H5F_LIBVER_V110);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, creation, access);
  edit(file);
  H5Fclose(file);
  H5Pclose(access);
  return read_file(path);
}

// A store with empty groups, then edited.
std::string store_with(const Edit& edit, hid_t creation = H5P_DEFAULT,
                       H5F_libver_t oldest = H5F_LIBVER_V110) {
  return file_of(creation, oldest, [&](hid_t file) {
    mark_as_store(file);
    for (const char* group : {"/tensors", "/files"}) {
      H5Gclose(H5Gcreate2(file, group, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    }
    edit(file);
  });
}

// Creation properties of a dataset in chunks of `length` with a checksum.
hid_t checksummed(hsize_t length) {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(properties, 1, &length);
  H5Pset_fletcher32(properties);
  return properties;
}

// A store whose tensor "t" has this type, shape and these creation properties (which it closes);
// `fill` writes to it.
std::string store_of(hid_t type, const std::vector<hsize_t>& shape, hid_t properties,
                     const std::function<void(hid_t dataset)>& fill = nullptr) {
  const std::string bytes = store_with([&](hid_t file) {
    const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
    const hid_t dataset =
        H5Dcreate2(file, "/tensors/t", type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
    if (fill) fill(dataset);
    H5Dclose(dataset);
    H5Sclose(space);
  });
  if (properties != H5P_DEFAULT) H5Pclose(properties);
  return bytes;
}

// A raw chunk, stored without the filters having seen it.
void write_chunk(hid_t dataset, hsize_t offset, const std::string& bytes, uint32_t skipped = 0) {
  H5Dwrite_chunk(dataset, H5P_DEFAULT, skipped, &offset, bytes.size(), bytes.data());
}

std::string with_external_link(const std::string& other, const char* name, const char* target) {
  return store_with([=](hid_t file) {
    H5Ldelete(file, name, H5P_DEFAULT);
    H5Lcreate_external(other.c_str(), target, file, name, H5P_DEFAULT, H5P_DEFAULT);
  });
}

std::vector<HostileInput> link_cases() {
  const std::string secret = Sandbox::instance().outside() + "/secret.h5";
  const auto external = [&](const char* name, const char* target) {
    return with_external_link(secret, name, target);
  };
  const auto soft = [](const char* target) {
    return store_with(
        [=](hid_t file) { H5Lcreate_soft(target, file, "/tensors/t", H5P_DEFAULT, H5P_DEFAULT); });
  };
  const std::string elsewhere = "is a link to elsewhere";
  return {
      {"ExternalLinkOfATensor", external("/tensors/t", "/w"), elsewhere},
      {"ExternalLinkOfAllTensors", external("/tensors", "/"), elsewhere},
      {"ExternalLinkOfAllFiles", external("/files", "/"), elsewhere},
      {"ExternalLinkOfAFile", external("/files/config.json", "/w"), elsewhere},
      {"ExternalLinkWithARelativeName",
       with_external_link("../outside/secret.h5", "/tensors/t", "/w"), elsewhere},
      {"SoftLinkToItself", soft("/tensors/t"), elsewhere},
      {"SoftLinkToNothing", soft("/nothing"), elsewhere},
      {"SoftLinkToAGroup", soft("/files"), elsewhere},
      {"HardLinkToItsOwnGroup", store_with([](hid_t file) {
         H5Lcreate_hard(file, "/tensors", file, "/tensors/t", H5P_DEFAULT, H5P_DEFAULT);
       }),
       "'/tensors/t'"},
      {"NamedDatatypeForATensor", store_with([](hid_t file) {
         const hid_t type = H5Tcopy(H5T_IEEE_F32LE);
         H5Tcommit2(file, "/tensors/t", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
         H5Tclose(type);
       }),
       "'/tensors/t'"},
      {"TenThousandGroupsDeep", store_with([](hid_t file) {
         hid_t group = H5Gopen2(file, "/tensors", H5P_DEFAULT);
         for (int i = 0; i < 10'000; ++i) {
           const hid_t inner = H5Gcreate2(group, "t", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
           H5Gclose(group);
           group = inner;
         }
         H5Gclose(group);
       }),
       "'/tensors/t'"},
      {"TwentyThousandLinks", store_with([](hid_t file) {
         for (int i = 0; i < 20'000; ++i) {
           H5Lcreate_soft("/", file, fmt::format("/tensors/t{}", i).c_str(), H5P_DEFAULT,
                          H5P_DEFAULT);
         }
       }),
       elsewhere},
      {"LineEndInAName", store_with([](hid_t file) {
         H5Lcreate_soft("/", file, "/tensors/a\nb", H5P_DEFAULT, H5P_DEFAULT);
       }),
       "'/tensors/a\\x0ab'"},
      {"NameOfSixtyThousandCharacters", store_with([](hid_t file) {
         H5Lcreate_soft("/", file, ("/tensors/" + std::string(60'000, 'n')).c_str(), H5P_DEFAULT,
                        H5P_DEFAULT);
       }),
       "nnn...'"},
  };
}

hid_t external_file() {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  const std::string secret = Sandbox::instance().outside() + "/secret.bin";
  H5Pset_external(properties, secret.c_str(), 0, 64);
  return properties;
}

hid_t virtual_source() {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t count = 4;
  const hid_t space = H5Screate_simple(1, &count, nullptr);
  const std::string secret = Sandbox::instance().outside() + "/secret.h5";
  H5Pset_virtual(properties, space, secret.c_str(), "/w", space);
  H5Sclose(space);
  return properties;
}

hid_t with_filter(H5Z_filter_t filter) {
  const hid_t properties = checksummed(16);
  const unsigned level = 1;
  H5Pset_filter(properties, filter, H5Z_FLAG_OPTIONAL, 1, &level);
  return properties;
}

hid_t compact() {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_layout(properties, H5D_COMPACT);
  return properties;
}

std::vector<HostileInput> storage_cases() {
  const std::string storage = "is not stored in chunks with fletcher32 only";
  const hid_t f32 = H5T_IEEE_F32LE;
  const std::string chunk(20, '\0');  // of four floats, whose checksum is 0
  return {
      {"ExternalRawFile", store_of(f32, {16}, external_file()), storage},
      {"VirtualDataset", store_of(f32, {4}, virtual_source()), storage},
      {"Contiguous", store_of(f32, {16}, H5P_DEFAULT), storage},
      {"UnknownFilterOfAPlugin", store_of(f32, {16}, with_filter(32'000)), storage},
      {"Deflate", store_of(f32, {16}, with_filter(H5Z_FILTER_DEFLATE)), storage},
      {"ChecksumTwice", store_of(f32, {16}, with_filter(H5Z_FILTER_FLETCHER32)), storage},
      {"NothingWritten", store_of(f32, {16}, checksummed(16)), "0 bytes stored of 64"},
      {"TerabyteOfNothing", store_of(f32, {hsize_t{1} << 38}, checksummed(16)), "bytes stored of"},
      {"ChunkOfTwoGigabytes",
       store_of(f32, {hsize_t{1} << 29}, checksummed(1 << 29),
                [&](hid_t t) { write_chunk(t, 0, chunk); }),
       "bytes stored of"},
      {"CodesOfAnUnknownScheme", store_with([](hid_t file) {
         const hid_t space = H5Screate(H5S_SCALAR);
         const hid_t t = H5Dcreate2(file, "/tensors/t.codes", H5T_STD_U8LE, space, H5P_DEFAULT,
                                    H5P_DEFAULT, H5P_DEFAULT);
         write_text_attribute(t, "scheme", "a\nb");
         H5Dclose(t);
         H5Sclose(space);
       }),
       "unknown scheme 'a\\x0ab'"},
      {"WholeChunk", store_of(f32, {4}, checksummed(4), [&](hid_t t) { write_chunk(t, 0, chunk); }),
       ""},
      {"WrongChecksum",
       store_of(f32, {4}, checksummed(4),
                [&](hid_t t) { write_chunk(t, 0, std::string(20, '\1')); }),
       "tensor"},
      {"ChecksumLeftOut",
       store_of(f32, {4}, checksummed(4),
                [&](hid_t t) { write_chunk(t, 0, std::string(16, '\1'), 1); }),
       "'/tensors/t'"},
      {"ShortChunkBesideALongOne",
       store_of(f32, {524'288}, checksummed(262'144),
                [&](hid_t t) {
                  write_chunk(t, 0, std::string(3 << 20, '\0'));
                  write_chunk(t, 262'144, std::string(8, '\0'));
                }),
       "'/tensors/t'"},
      {"EmptyChunkBesideALongOne",
       store_of(f32, {8}, checksummed(4),
                [&](hid_t t) {
                  write_chunk(t, 0, std::string(200, '\0'));
                  write_chunk(t, 4, std::string(1, '\0'));
                }),
       "'/tensors/t'"},
  };
}

std::vector<HostileInput> type_cases() {
  const auto closed_after = [](hid_t type) {
    const std::string bytes = store_of(type, {1}, compact());
    H5Tclose(type);
    return bytes;
  };
  const auto variable = [] {
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    return type;
  };
  const auto compound = [] {
    const hid_t type = H5Tcreate(H5T_COMPOUND, 8);
    H5Tinsert(type, "a", 0, H5T_IEEE_F32LE);
    H5Tinsert(type, "b", 4, H5T_IEEE_F32LE);
    return type;
  };
  const hsize_t two = 2;
  const std::string refused = "unsupported element type";
  return {
      {"VariableText", closed_after(variable()), refused},
      {"VariableLength", closed_after(H5Tvlen_create(H5T_IEEE_F32LE)), refused},
      {"RegionReference", closed_after(H5Tcopy(H5T_STD_REF_DSETREG)), refused},
      {"ObjectReference", closed_after(H5Tcopy(H5T_STD_REF_OBJ)), refused},
      {"Compound", closed_after(compound()), refused},
      {"Array", closed_after(H5Tarray_create2(H5T_IEEE_F32LE, 1, &two)), refused},
      {"Opaque", closed_after(H5Tcreate(H5T_OPAQUE, 4)), refused},
      {"Bitfield", closed_after(H5Tcopy(H5T_STD_B32LE)), refused},
      {"Enumeration", closed_after(H5Tenum_create(H5T_STD_U8LE)), ""},
      {"BigEndian", closed_after(H5Tcopy(H5T_IEEE_F32BE)), refused},
      {"SevenDimensions", store_of(H5T_IEEE_F32LE, std::vector<hsize_t>(7, 1), compact()),
       "data space of rank 7"},
      {"DimensionsThatOverflow",
       store_of(H5T_STD_U8LE, {hsize_t{1} << 40, hsize_t{1} << 22, 0}, compact()),
       "shape overflows"},
      {"NoDimensionsAtAll", store_with([](hid_t file) {
         const hid_t space = H5Screate(H5S_NULL);
         H5Dclose(H5Dcreate2(file, "/tensors/t", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT,
                             H5P_DEFAULT));
         H5Sclose(space);
       }),
       "'/tensors/t'"},
      {"UnknownTypeMarker",
       store_of(H5T_STD_U16LE, {4}, compact(),
                [](hid_t t) { write_text_attribute(t, "dtype", "F99"); }),
       refused},
      {"TypeMarkerIsANumber",
       store_of(H5T_STD_U16LE, {4}, compact(),
                [](hid_t t) {
                  const int64_t value = 1;
                  write_attribute(t, "dtype", H5T_STD_I64LE, &value);
                }),
       "has another type than expected"},
  };
}

std::vector<HostileInput> file_cases() {
  const std::string good = store_with([](hid_t) {});
  const auto marked = [](const Edit& edit) { return file_of(H5P_DEFAULT, H5F_LIBVER_V110, edit); };
  const hid_t block = H5Pcreate(H5P_FILE_CREATE);
  H5Pset_userblock(block, 512);
  std::vector<HostileInput> cases = {
      {"EmptyStore", good, ""},
      {"Nothing", "", "'/'"},
      {"OnlyTheSignature", good.substr(0, 8), "'/'"},
      {"HalfTheSuperblock", good.substr(0, 24), "'/'"},
      {"LastByteMissing", good.substr(0, good.size() - 1), "'/'"},
      {"BytesBehindTheEnd", good + std::string(4096, 'x'), ""},
      {"UserBlock", store_with([](hid_t) {}, block), "'/'"},
      {"OldFormatWithoutChecksums", store_with([](hid_t) {}, H5P_DEFAULT, H5F_LIBVER_EARLIEST),
       "'/'"},
      {"FormatOfVariableLength", marked([](hid_t file) {
         const hid_t type = H5Tcopy(H5T_C_S1);
         H5Tset_size(type, H5T_VARIABLE);
         const char* text = "rankwise-quantized-store";
         write_attribute(file, "format", type, &text);
         H5Tclose(type);
       }),
       "has another type"},
      {"FormatOfAMegabyte",
       marked([](hid_t file) { write_text_attribute(file, "format", std::string(1 << 20, 'x')); }),
       "is too long"},
      {"FormatIsAList", marked([](hid_t file) {
         const std::vector<int64_t> values = {1, 2};
         write_attribute(file, "format", H5T_STD_I64LE, values.data(), 2);
       }),
       "has another type"},
      {"VersionIsText", marked([](hid_t file) {
         write_text_attribute(file, "format", "rankwise-quantized-store");
         write_text_attribute(file, "version", "1");
       }),
       "has another type"},
      {"VersionFromTheFuture", marked([](hid_t file) {
         write_text_attribute(file, "format", "rankwise-quantized-store");
         const int64_t version = 1'000'000;
         write_attribute(file, "version", H5T_STD_I64LE, &version);
       }),
       "version 1000000"},
      {"AnotherFormat", marked([](hid_t file) { write_text_attribute(file, "format", "a\nb"); }),
       "not a quantised store"},
      {"NoFormat", marked([](hid_t) {}), "not a quantised store"},
      {"TenThousandAttributes", store_with([](hid_t file) {
         const int64_t value = 1;
         for (int i = 0; i < 10'000; ++i) {
           write_attribute(file, fmt::format("a{}", i).c_str(), H5T_STD_I64LE, &value);
         }
       }),
       ""},
  };
  H5Pclose(block);
  return cases;
}

}  // namespace

std::vector<HostileInput> hostile_stores() {
  hdf5::prepare_library();
  std::vector<HostileInput> all;
  for (auto cases : {link_cases(), storage_cases(), type_cases(), file_cases()}) {
    all.insert(all.end(), cases.begin(), cases.end());
  }
  return all;
}

}  // namespace rankwise::testing
