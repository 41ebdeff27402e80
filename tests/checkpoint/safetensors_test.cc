// The safetensors reader takes what the format allows and refuses everything else; the writer makes the reference
// writer's bytes (tests/golden/trtllm was written by it).
#include "checkpoint/safetensors.h"

#include "checkpoint/tensor_set.h"
#include "tests/checkpoint/fixtures.h"

namespace qg {
namespace {

std::string file_of(const std::string& header, const std::string& data) {
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[static_cast<size_t>(i)] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return file + header + data;
}

SafetensorsHeader parse(const std::string& file) {
  return parse_safetensors_header({reinterpret_cast<const std::byte*>(file.data()), file.size()},
                                  static_cast<int64_t>(file.size()), "file");
}

// A header padded so that data starts at a multiple of 8.
std::string padded(std::string header) {
  return header.append((8 - header.size() % 8) % 8, ' ');
}

std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, int begin, int end) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" +
         std::to_string(begin) + "," + std::to_string(end) + "]}";
}

void expect_refused(const std::string& header, size_t data_bytes, const std::string& reason) {
  SCOPED_TRACE(header);
  const std::string file = file_of(padded(header), std::string(data_bytes, 'x'));
  expect_contains(error_of([&] { parse(file); }), reason);
}

TEST(SafetensorsHeader, ReadsEveryDtype) {
  const std::pair<const char*, int> types[] = {{"F64", 8}, {"I64", 8},     {"F32", 4},     {"I32", 4},
                                               {"F16", 2}, {"BF16", 2},    {"I16", 2},     {"I8", 1},
                                               {"U8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"BOOL", 1}};
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  int offset = 0;
  for (const auto& [name, size] : types) {
    header += "," + entry(name, name, "[3]", offset, offset + 3 * size);
    offset += 3 * size;
  }
  // 3 × 8 + 3 × 8 + … keeps each start a multiple of the element size in this order.
  const SafetensorsHeader parsed = parse(file_of(padded(header + "}"), std::string(static_cast<size_t>(offset), 'x')));
  ASSERT_EQ(parsed.tensors.size(), 12u);
  EXPECT_EQ(parsed.metadata.at("format"), "pt");
  for (size_t i = 0; i < 12; ++i) {
    EXPECT_EQ(parsed.tensors[i].name, types[i].first);
    EXPECT_EQ(to_string(parsed.tensors[i].dtype), types[i].first);
    EXPECT_EQ(parsed.tensors[i].bytes, 3 * types[i].second);
  }
}

TEST(SafetensorsHeader, ReadsScalarsAndEmptyTensors) {
  const std::string header = "{" + entry("e", "F32", "[0,5]", 0, 0) + "," + entry("s", "F32", "[]", 0, 4) + "," +
                             entry("t", "I8", "[0]", 4, 4) + "}";
  const SafetensorsHeader parsed = parse(file_of(padded(header), "abcd"));
  ASSERT_EQ(parsed.tensors.size(), 3u);
  EXPECT_EQ(parse(file_of("{}", "")).tensors.size(), 0u);
}

TEST(SafetensorsHeader, RefusesBrokenLengths) {
  expect_contains(error_of([] { parse(""); }), "shorter than its 8-byte length field");
  expect_contains(error_of([] { parse("1234567"); }), "7 bytes");
  expect_contains(error_of([] { parse(std::string("\x10\0\0\0\0\0\0\0{}", 10)); }), "header of 16 bytes does not fit");
  expect_contains(error_of([] { parse(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)); }),
                  "more than the 100,000,000");
  expect_contains(error_of([] { parse(std::string(8, '\0')); }), "does not start with '{'");
  expect_contains(error_of([] { parse(file_of(" {}", "")); }), "does not start with '{'");
}

TEST(SafetensorsHeader, RefusesBrokenJson) {
  expect_refused("{\"a\":", 0, "not valid JSON");
  expect_refused("{\"a\xff\":1}", 0, "not valid JSON");  // not UTF-8
  expect_refused("{} {}", 0, "not valid JSON");
  expect_refused("{" + std::string(100, '['), 0, "not valid JSON");
  expect_refused("{\"a\":" + std::string(100, '[') + std::string(100, ']') + "}", 0, "nested deeper");
  expect_refused("{\"a\":5}", 0, "should be a JSON object");
}

TEST(SafetensorsHeader, RefusesDuplicates) {
  const std::string a = entry("a", "I8", "[4]", 0, 4);
  expect_refused("{" + a + "," + a + "}", 4, "key \"a\" appears twice");
  expect_refused("{\"a\":{\"dtype\":\"I8\",\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4,
                 "\"dtype\" appears twice");
  expect_refused("{\"__metadata__\":{\"x\":\"1\",\"x\":\"2\"}}", 0, "\"x\" appears twice");
}

TEST(SafetensorsHeader, RefusesBrokenEntries) {
  expect_refused("{" + entry("a", "F33", "[4]", 0, 4) + "}", 4, "dtype \"F33\" is not known");
  expect_refused("{" + entry("a", "I8", "[-4]", 0, 4) + "}", 4, "whole number");
  expect_refused("{" + entry("a", "I8", "[4.0]", 0, 4) + "}", 4, "whole number");
  expect_refused("{" + entry("a", "I8", "4", 0, 4) + "}", 4, "should be a list");
  expect_refused("{" + entry("a", "I8", "[5]", 0, 4) + "}", 4, "needs 5 bytes");
  expect_refused("{" + entry("a", "F32", "[4294967296,4294967296]", 0, 4) + "}", 4, "too large");
  expect_refused("{" + entry("a", "F64", "[2305843009213693952]", 0, 4) + "}", 4, "too large");
  expect_refused("{" + entry("a", "I8", "[99999999999999999999]", 0, 4) + "}", 4, "whole number");
  expect_refused("{\"a\":{\"dtype\":\"I8\",\"shape\":[4]}}", 4, "\"data_offsets\" is missing");
  expect_refused("{\"a\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4],\"more\":1}}", 4,
                 "unknown key \"more\"");
  expect_refused("{\"a\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0]}}", 4, "two numbers");
  expect_refused("{\"a\":{\"dtype\":7,\"shape\":[4],\"data_offsets\":[0,4]}}", 4, "should be a string");
  expect_refused("{\"__metadata__\":{\"x\":1}}", 0, "should be a string");
  expect_refused("{\"__metadata__\":[]}", 0, "should be a JSON object");
}

TEST(SafetensorsHeader, RefusesBrokenPlaces) {
  const auto two = [](int b0, int e0, int b1, int e1) {
    return "{" + entry("a", "I8", "[4]", b0, e0) + "," + entry("b", "I8", "[4]", b1, e1) + "}";
  };
  expect_refused(two(0, 4, 2, 6), 8, "overlaps");
  expect_refused(two(0, 4, 0, 4), 4, "overlaps");
  expect_refused(two(0, 4, 5, 9), 9, "gap of 1 bytes");
  expect_refused(two(1, 5, 5, 9), 9, "gap of 1 bytes");
  expect_refused(two(0, 4, 4, 8), 9, "1 bytes at the end belong to no tensor");
  expect_refused(two(0, 4, 4, 8), 7, "do not lie in the file's 7 bytes");
  expect_refused(two(0, 4, 8, 4), 8, "do not lie in");
  expect_refused("{}", 3, "3 bytes at the end");
  expect_refused("{" + entry("a", "I8", "[1]", 0, 1) + "," + entry("b", "F32", "[1]", 1, 5) + "}", 5,
                 "cannot be aligned");
  const std::string unpadded = "{" + entry("a", "F32", "[1]", 0, 4) + "}";
  ASSERT_NE(unpadded.size() % 4, 0u);
  expect_contains(error_of([&] { parse(file_of(unpadded, "1234")); }), "cannot be aligned");
}

TEST(SafetensorsWriter, RoundTripsInAnyOrder) {
  const TestFolder folder;
  const Tensor f = tensor_from_f32(std::vector<float>{1, 2, 3}, {3});
  const Tensor h = tensor_from_f32(std::vector<float>{4, 5}, {2, 1}, DType::f16);
  const std::vector<TensorEntry> entries{{"b", DType::f16, {2, 1}}, {"z", DType::f32, {3}}, {"a", DType::f16, {2, 1}}};
  for (const bool forwards : {true, false}) {
    SafetensorsWriter writer(folder / (forwards ? "1.safetensors" : "2.safetensors"), entries);
    for (const char name : std::string(forwards ? "abz" : "zba"))
      writer.write(std::string(1, name), name == 'z' ? f : h);
    writer.finish();
  }
  EXPECT_EQ(read_file(folder / "1.safetensors"), read_file(folder / "2.safetensors"));
  const SafetensorsFile file(folder / "1.safetensors");
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].name, "z");  // wider elements first
  EXPECT_EQ(to_f32(file.view(*file.find("z"))), (std::vector<float>{1, 2, 3}));
  EXPECT_EQ(bytes_of(file.view(*file.find("a"))), bytes_of(h));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.find("c"), nullptr);
}

TEST(SafetensorsWriter, RefusesAndLeavesNothing) {
  const TestFolder folder;
  const Tensor f = tensor_from_f32(std::vector<float>{1, 2, 3}, {3});
  {
    SafetensorsWriter writer(folder / "x.safetensors", {{"a", DType::f32, {3}}, {"b", DType::f32, {3}}});
    EXPECT_TRUE(writer.declared("a"));
    EXPECT_FALSE(writer.declared("c"));
    expect_contains(error_of([&] { writer.write("c", f); }), "was not declared");
    expect_contains(error_of([&] { writer.write("a", tensor_from_f32(std::vector<float>{1}, {1})); }),
                    "declared was F32 [3]");
    writer.write("a", f);
    expect_contains(error_of([&] { writer.write("a", f); }), "written twice");
    expect_contains(error_of([&] { writer.finish(); }), "1 tensors were not written, the first is b");
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  expect_contains(error_of([&] {
                    SafetensorsWriter(folder / "x", {{"a", DType::f32, {3}}, {"a", DType::f32, {3}}});
                  }),
                  "declared twice");
}

// Two shards and an index over them.
struct Shards {
  TestFolder folder;
  Shards() {
    for (const char* name : {"a", "b"}) {
      SafetensorsWriter writer(folder / (std::string("model-") + name + ".safetensors"), {{name, DType::f32, {1}}});
      writer.write(name, tensor_from_f32(std::vector<float>{*name == 'a' ? 1.0f : 2.0f}, {1}));
      writer.finish();
    }
  }
  std::string open(const std::string& weight_map) {
    write_file(folder / "model.safetensors.index.json", "{\"metadata\":{},\"weight_map\":" + weight_map + "}");
    return error_of([&] { TensorSet::open_folder(folder.path()); });
  }
};

TEST(TensorSet, ReadsShards) {
  Shards shards;
  write_file(shards.folder / "model.safetensors.index.json",
             R"({"weight_map":{"a":"model-a.safetensors","b":"model-b.safetensors"}})");
  const TensorSet set = TensorSet::open_folder(shards.folder.path());
  EXPECT_EQ(set.names(), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(to_f32(set.get("b"))[0], 2);
  EXPECT_EQ(set.find("c"), nullptr);
  expect_contains(error_of([&] { set.get("c"); }), "tensor c is missing");
}

TEST(TensorSet, RefusesWrongIndexes) {
  Shards shards;
  expect_contains(shards.open("{}"), "is empty");
  expect_contains(shards.open("[]"), "not an object");
  expect_contains(shards.open(R"({"a":1})"), "should be a file name");
  expect_contains(shards.open(R"({"a":"model-a.safetensors","b":"model-c.safetensors"})"), "shard model-c.safetensors");
  expect_contains(shards.open(R"({"a":"model-b.safetensors","b":"model-b.safetensors"})"), "tensor a lies in model-b");
  expect_contains(shards.open(R"({"a":"model-a.safetensors","a":"model-a.safetensors"})"), "appears twice");
  for (const char* name : {"../model-a.safetensors", "/etc/passwd", "x/model-a.safetensors", "..", "", "model-a.bin"})
    expect_contains(shards.open("{\"a\":\"" + std::string(name) + "\"}"), "not the plain name");
}

TEST(TensorSet, RefusesTensorsOutsideTheIndex) {
  Shards shards;
  SafetensorsWriter writer(shards.folder / "model-a.safetensors", {{"a", DType::f32, {1}}, {"more", DType::f32, {1}}});
  for (const char* name : {"a", "more"}) writer.write(name, tensor_from_f32(std::vector<float>{1}, {1}));
  writer.finish();
  expect_contains(shards.open(R"({"a":"model-a.safetensors","b":"model-b.safetensors"})"),
                  "tensor more lies in a shard but not in the index");
}

TEST(TensorSet, HashDependsOnNamesAndBytes) {
  const TestFolder folder;
  const auto hash = [&](const std::string& name, float value) {
    SafetensorsWriter writer(folder / "h.safetensors", {{name, DType::f32, {1}}});
    writer.write(name, tensor_from_f32(std::vector<float>{value}, {1}));
    writer.finish();
    return TensorSet::open_file(folder / "h.safetensors").hash();
  };
  EXPECT_EQ(hash("a", 1), hash("a", 1));
  EXPECT_NE(hash("a", 1), hash("b", 1));
  EXPECT_NE(hash("a", 1), hash("a", 2));
}

}  // namespace
}  // namespace qg
