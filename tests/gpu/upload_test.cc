// Staged uploads: what lies on the device afterwards, over buffers that are used again and again.
#include <gtest/gtest.h>

#include <cstring>

#include "kernels/common/cuda_upload.h"
#include "tests/gpu/device_vector.h"

namespace qg::testing {
namespace {

uint8_t byte_at(int64_t row, size_t column) {
  return static_cast<uint8_t>(mix64(static_cast<uint64_t>(row) * 1000003 + column));
}

TEST(Upload, RowsOfAnyWidthArriveInTheirPlaces) {
  CudaUpload upload;
  int64_t sent = 0;
  for (const size_t pitch : {size_t{1}, size_t{100}, size_t{4096}, size_t{28672}, size_t{20} << 20})
    for (const int64_t rows : {int64_t{1}, int64_t{7}, static_cast<int64_t>((size_t{70} << 20) / pitch % 100000)}) {
      if (rows == 0) continue;
      const DeviceVector<uint8_t> to(static_cast<size_t>(rows) * pitch + 64);
      upload.rows(reinterpret_cast<std::byte*>(to.data()), rows, pitch, [&](int64_t row, std::byte* out) {
        for (size_t i = 0; i < pitch; ++i) out[i] = std::byte{byte_at(row, i)};
      });
      upload.wait();
      const std::vector<uint8_t> got = to.read();
      for (int64_t row = 0; row < rows; ++row)
        for (size_t i = 0; i < pitch; i += pitch / 50 + 1)
          ASSERT_EQ(got[static_cast<size_t>(row) * pitch + i], byte_at(row, i))
              << "row " << row << " of " << rows << ", byte " << i << " of " << pitch;
      for (size_t i = 0; i < 64; ++i) ASSERT_EQ(got[got.size() - 64 + i], kPoison) << "written behind the end";
      sent += rows * static_cast<int64_t>(pitch);
    }
  EXPECT_EQ(upload.bytes_sent(), sent);
}

TEST(Upload, BytesOfAnyCountAndAfterRelease) {
  CudaUpload upload;
  for (const size_t count :
       {size_t{0}, size_t{1}, size_t{256} << 10, (size_t{256} << 10) + 3, (size_t{50} << 20) + 17}) {
    std::vector<uint8_t> from(count);
    for (size_t i = 0; i < count; ++i) from[i] = byte_at(3, i);
    const DeviceVector<uint8_t> to(count + 1);
    upload.bytes(reinterpret_cast<std::byte*>(to.data()), from.data(), count);
    std::fill(from.begin(), from.end(), uint8_t{0});  // the source may go at once
    upload.release();
    const std::vector<uint8_t> got = to.read();
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(got[i], byte_at(3, i)) << i << " of " << count;
    EXPECT_EQ(got[count], kPoison);
  }
}

}  // namespace
}  // namespace qg::testing
