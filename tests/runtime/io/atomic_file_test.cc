// SPDX-License-Identifier: Apache-2.0
#include "runtime/io/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "runtime/errors.h"
#include "tests/support/error_of.h"
#include "tests/support/scratch_folder.h"

namespace rankwise {
namespace {

namespace fs = std::filesystem;
using testing::error_of;
using testing::ScratchFolder;

size_t entries_in(const std::string& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(AtomicFile, AppearsCompleteAtCommit) {
  const ScratchFolder folder;
  const std::string path = folder.write("a.txt", "before");
  {
    AtomicFile file(path);
    file.write("after ");
    file.write(std::as_bytes(std::span("bytes", 5)));
    EXPECT_EQ(read_file(path), "before");
    file.commit();
  }
  EXPECT_EQ(read_file(path), "after bytes");
  EXPECT_EQ(entries_in(folder.path()), 1u);
}

TEST(AtomicFile, WithoutCommitNothingChanges) {
  const ScratchFolder folder;
  const std::string path = folder.write("a.txt", "before");
  {
    AtomicFile file(path);
    file.write("half");
    EXPECT_TRUE(fs::exists(file.temporary_path()));
  }
  EXPECT_EQ(read_file(path), "before");
  EXPECT_EQ(entries_in(folder.path()), 1u);
}

TEST(AtomicFile, FullDiskIsADiskErrorAndTheOldFileStays) {
  const ScratchFolder folder;
  const std::string path = folder.write("a.txt", "before");
  std::string message;
  {
    const testing::FileSizeLimit limit(100'000);
    message = error_of<DiskError>([&] { write_file_atomically(path, std::string(100'001, 'x')); });
  }
  RW_EXPECT_HAS(message, path);
  RW_EXPECT_HAS(message, "write failed: File too large");
  EXPECT_EQ(read_file(path), "before");
  EXPECT_EQ(entries_in(folder.path()), 1u);
}

TEST(AtomicFile, TemporaryFileOfADeadProcessIsReplaced) {
  const ScratchFolder folder;
  const std::string path = folder.file("a.txt");
  folder.write(fs::path(temporary_name(path)).filename().string(), std::string(100, 'x'));
  write_file_atomically(path, "new");
  EXPECT_EQ(read_file(path), "new");
  EXPECT_EQ(entries_in(folder.path()), 1u);
}

TEST(AtomicFile, MissingFolderAndFolderAsTargetAreDiskErrors) {
  const ScratchFolder folder;
  RW_EXPECT_HAS(error_of<DiskError>([&] { AtomicFile file(folder.file("no/a.txt")); }),
                "No such file");
  fs::create_directories(folder.file("taken/x"));
  RW_EXPECT_HAS(error_of<DiskError>([&] { write_file_atomically(folder.file("taken"), "x"); }),
                "rename failed");
  EXPECT_EQ(entries_in(folder.path()), 1u);
}

TEST(PublishFile, RenamesAndReportsFailures) {
  const ScratchFolder folder;
  publish_file(folder.write("a.tmp", "content"), folder.file("a"));
  EXPECT_EQ(read_file(folder.file("a")), "content");
  EXPECT_FALSE(fs::exists(folder.file("a.tmp")));
  error_of<DiskError>([&] { publish_file(folder.file("none"), folder.file("a")); });
  error_of<DiskError>([&] { sync_folder(folder.file("none")); });
}

TEST(ReadFile, RefusesWhatIsNoRegularFileOrTooLarge) {
  const ScratchFolder folder;
  const std::string path = folder.write("ten", "0123456789");
  EXPECT_EQ(read_file(path, 10), "0123456789");
  EXPECT_EQ(read_file(folder.write("empty", "")), "");
  RW_EXPECT_HAS(error_of<FormatError>([&] { read_file(path, 9); }), "10 bytes, more than the 9");
  RW_EXPECT_HAS(error_of<FormatError>([&] { read_file(folder.file("none")); }), "No such file");
  RW_EXPECT_HAS(error_of<FormatError>([&] { read_file(folder.path()); }), "not a regular file");
  RW_EXPECT_HAS(error_of<FormatError>([&] { read_file("/dev/zero"); }), "not a regular file");
  mkfifo(folder.file("pipe").c_str(), 0600);
  RW_EXPECT_HAS(error_of<FormatError>([&] { read_file(folder.file("pipe")); }),
                "not a regular file");  // and does not wait for a writer
  RW_EXPECT_HAS(error_of<FormatError>([&] { read_file(path + std::string("\0x", 2)); }), "NUL");
}

class PathInside : public ::testing::Test {
 protected:
  std::string refusal(std::string_view name) {
    return error_of<FormatError>([&] { path_inside(folder_.path(), name, "index.json"); });
  }
  ScratchFolder folder_;
};

TEST_F(PathInside, AcceptsNamesOfTheFolder) {
  folder_.write("sub/b", "");
  fs::create_symlink("sub/b", folder_.file("link"));
  for (const char* name : {"a", "a..b", "...", "sub/b", "sub/absent", "link", "%2e%2e", "-x"}) {
    EXPECT_EQ(path_inside(folder_.path(), name, "index.json"), folder_.path() + "/" + name);
  }
}

TEST_F(PathInside, RefusesNamesThatLeaveTheFolder) {
  for (const char* name : {"..", "../x", "a/../../x", "a/..", "./../x", "a/../b"}) {
    RW_EXPECT_HAS(refusal(name), "leaves the folder");
  }
  RW_EXPECT_HAS(refusal("/etc/passwd"), "index.json: file name '/etc/passwd' is absolute");
  RW_EXPECT_HAS(refusal(""), "is empty");
  RW_EXPECT_HAS(refusal("a\\..\\b"), "backslash");
  RW_EXPECT_HAS(refusal(std::string_view("a\0b", 3)), "NUL");
  RW_EXPECT_HAS(refusal("."), "link out of the folder");  // the folder itself is no file in it
  refusal(std::string(5000, 'a'));
}

TEST_F(PathInside, RefusesLinksOutOfTheFolder) {
  const ScratchFolder outside;
  outside.write("secret", "");
  fs::create_symlink(outside.file("secret"), folder_.file("file_link"));
  fs::create_symlink(outside.path(), folder_.file("folder_link"));
  fs::create_symlink("..", folder_.file("up"));
  for (const char* name : {"file_link", "folder_link/secret", "folder_link/absent", "up/x"}) {
    RW_EXPECT_HAS(refusal(name), "link out of the folder");
  }
}

TEST_F(PathInside, AcceptsTheLinksOfTheHubCacheOnly) {
  folder_.write("models/blobs/0123", "");
  folder_.write("models/other/0123", "");
  fs::create_directories(folder_.file("models/snapshots/main"));
  const std::string snapshot = folder_.file("models/snapshots/main");
  fs::create_symlink("../../blobs/0123", snapshot + "/model.safetensors");
  fs::create_symlink("../../other/0123", snapshot + "/other.safetensors");
  EXPECT_EQ(path_inside(snapshot, "model.safetensors", "index.json"),
            snapshot + "/model.safetensors");
  error_of<FormatError>([&] { path_inside(snapshot, "other.safetensors", "index.json"); });
}

}  // namespace
}  // namespace rankwise
