#include "server/admission.h"

#include <atomic>
#include <future>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr absl::Duration kForever = absl::Hours(1);

void ExpectLoad(const Admission& admission, int64_t requests, int64_t bytes) {
  EXPECT_EQ(admission.load().requests, requests);
  EXPECT_EQ(admission.load().bytes, bytes);
}

Admission::Ticket Enter(Admission& admission) {
  absl::StatusOr<Admission::Ticket> ticket = admission.Enter(0);
  EXPECT_TRUE(ticket.ok()) << ticket.status();
  return *std::move(ticket);
}

TEST(AdmissionTest, ATicketCountsWhileItLives) {
  Admission admission(100, 1000);
  {
    Admission::Ticket ticket = Enter(admission);
    ExpectLoad(admission, 1, 0);
    EXPECT_TRUE(ticket.Reserve(30).ok());
    EXPECT_TRUE(ticket.Reserve(70).ok());
    ExpectLoad(admission, 1, 100);
  }
  ExpectLoad(admission, 0, 0);
}

TEST(AdmissionTest, MovingATicketMovesItsPlace) {
  Admission admission(100, 1000);
  Admission::Ticket first = Enter(admission);
  ASSERT_TRUE(first.Reserve(10).ok());
  Admission::Ticket second(std::move(first));
  ExpectLoad(admission, 1, 10);
  Admission::Ticket third = Enter(admission);
  ASSERT_TRUE(third.Reserve(20).ok());
  third = std::move(second);  // gives back its own 20
  ExpectLoad(admission, 1, 10);
  third = Admission::Ticket();
  ExpectLoad(admission, 0, 0);
}

TEST(AdmissionTest, AStatusOrTicketGivesBackOnce) {
  Admission admission(100, 1000);
  {
    absl::StatusOr<Admission::Ticket> entered = admission.Enter(0);
    Admission::Ticket ticket;
    ticket = *std::move(entered);
    ASSERT_TRUE(ticket.Reserve(5).ok());
    ExpectLoad(admission, 1, 5);
  }
  ExpectLoad(admission, 0, 0);
}

TEST(AdmissionTest, Reserve) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  struct Case {
    const char* name;
    int64_t budget, taken_by_others, own, more;
    const char* want;  // part of the message; empty: admitted
  };
  const Case cases[] = {
      {"exactly the budget", 100, 0, 0, 100, ""},
      {"exactly what is left", 100, 60, 0, 40, ""},
      {"nothing, when all is taken", 100, 100, 0, 0, ""},
      {"one byte over what is left", 100, 60, 0, 41, "41 more bytes; 60 of memory_budget_bytes = 100 are taken"},
      {"one byte over the budget", 100, 0, 0, 101, "the call needs 101 bytes and memory_budget_bytes is 100"},
      {"over the budget with what it holds", 100, 0, 60, 41, "the call needs 101 bytes and memory_budget_bytes is 100"},
      {"too large wins over busy", 100, 60, 0, 101, "the call needs 101 bytes and memory_budget_bytes is 100"},
      {"the largest number", 100, 1, 0, kMax, "memory_budget_bytes is 100"},
      {"the largest budget", kMax, 1, 0, kMax, "memory_budget_bytes = 9223372036854775807"},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    Admission admission(test.budget, 1000);
    Admission::Ticket other = Enter(admission);
    ASSERT_TRUE(other.Reserve(test.taken_by_others).ok());
    Admission::Ticket mine = Enter(admission);
    ASSERT_TRUE(mine.Reserve(test.own).ok());
    const absl::Status status = mine.Reserve(test.more);
    const bool admitted = test.want[0] == '\0';
    EXPECT_EQ(status.code(), admitted ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr(test.want));
    ExpectLoad(admission, 2, test.taken_by_others + test.own + (admitted ? test.more : 0));
  }
}

TEST(AdmissionTest, ARefusedCallMayTryAgainWhenAnotherLeft) {
  Admission admission(100, 1000);
  auto other = std::make_unique<Admission::Ticket>(Enter(admission));
  ASSERT_TRUE(other->Reserve(60).ok());
  Admission::Ticket mine = Enter(admission);
  EXPECT_THAT(std::string(mine.Reserve(50).message()), HasSubstr("retry later"));
  other.reset();
  EXPECT_TRUE(mine.Reserve(50).ok());
}

TEST(AdmissionTest, CouldEverReserve) {
  Admission admission(100, 1000);
  absl::StatusOr<Admission::Ticket> other = admission.Enter(0), ticket = admission.Enter(0);
  ASSERT_TRUE(other->Reserve(70).ok());
  EXPECT_TRUE(ticket->CouldEverReserve(0));
  EXPECT_TRUE(ticket->CouldEverReserve(100));
  EXPECT_FALSE(ticket->CouldEverReserve(101));
  ASSERT_TRUE(ticket->Reserve(30).ok());
  EXPECT_TRUE(ticket->CouldEverReserve(70));
  EXPECT_FALSE(ticket->CouldEverReserve(71));
}

TEST(AdmissionTest, TheBacklogIsBounded) {
  constexpr int64_t kBacklog = 10 * Admission::kSmallBytes, kSmall = Admission::kSmallBytes;
  Admission admission(1, kBacklog);
  // The first is never too large.
  absl::StatusOr<Admission::Ticket> first = admission.Enter(2 * kBacklog);
  ASSERT_TRUE(first.ok());
  EXPECT_THAT(std::string(admission.Enter(0).status().message()), AllOf(HasSubstr("retry later"), HasSubstr("wait")));
  EXPECT_FALSE(admission.HasRoom(1, 1));
  first->LeaveBacklog();
  first->LeaveBacklog();
  EXPECT_EQ(admission.load().backlog_bytes, 0);

  // A fifth is kept for small ones.
  absl::StatusOr<Admission::Ticket> large = admission.Enter(kBacklog / 5 * 4 - 1);
  ASSERT_TRUE(large.ok());
  EXPECT_EQ(admission.Enter(kSmall + 1).status().code(), absl::StatusCode::kResourceExhausted);
  absl::StatusOr<Admission::Ticket> small = admission.Enter(kSmall);
  EXPECT_TRUE(small.ok());
  EXPECT_EQ(admission.load().requests, 3);
}

TEST(AdmissionTest, ARequestOfUnknownSizeIsTakenForAUsualOne) {
  Admission admission(1, 8000);
  const auto backlog_of_unknown = [&] {
    absl::StatusOr<Admission::Ticket> ticket = admission.Enter(std::nullopt);
    EXPECT_TRUE(ticket.ok());
    return admission.load().backlog_bytes;
  };
  EXPECT_EQ(backlog_of_unknown(), 0);
  for (int i = 0; i < 100; ++i) admission.Enter(std::nullopt)->Arrived(1000);
  EXPECT_NEAR(static_cast<double>(backlog_of_unknown()), 1000, 10);
  absl::StatusOr<Admission::Ticket> ticket = admission.Enter(std::nullopt);
  ticket->Arrived(7);
  EXPECT_EQ(admission.load().backlog_bytes, 7);
}

// Nor does one that arrives twice, since it is decoded again, count twice.
TEST(AdmissionTest, ARequestThatSaidItsSizeTellsNothingOfOthers) {
  Admission admission(1000, 10000);
  for (int i = 0; i < 100; ++i) admission.Enter(8000)->Arrived(8000);
  absl::StatusOr<Admission::Ticket> ticket = admission.Enter(std::nullopt);
  EXPECT_EQ(admission.load().backlog_bytes, 0);
  for (int i = 0; i < 100; ++i) ticket->Arrived(800);
  const absl::StatusOr<Admission::Ticket> next = admission.Enter(std::nullopt);
  EXPECT_EQ(admission.load().backlog_bytes, 800 + 100);  // an eighth of one
}

TEST(AdmissionTest, WhoWatchesIsToldOnceOfTheDrain) {
  Admission admission(100, 1000);
  int told = 0, gone = 0;
  const Admission::DrainWatch watch(admission, [&] {
    EXPECT_TRUE(admission.draining());
    ++told;
  });
  {
    const Admission::DrainWatch before(admission, [&] { ++gone; });
  }
  EXPECT_EQ(told, 0);
  admission.StartDraining();
  admission.StartDraining();
  const Admission::DrainWatch after(admission, [&] { ++gone; });
  EXPECT_EQ(told, 1);
  EXPECT_EQ(gone, 0);
}

TEST(AdmissionTest, NobodyEntersWhileDraining) {
  Admission admission(100, 1000);
  EXPECT_FALSE(admission.draining());
  admission.StartDraining();
  admission.StartDraining();
  EXPECT_TRUE(admission.draining());
  const absl::Status status = admission.Enter(0).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("draining"), HasSubstr("retry")));
  ExpectLoad(admission, 0, 0);
}

TEST(AdmissionTest, ACallThatIsInMayStillReserveWhileDraining) {
  Admission admission(100, 1000);
  Admission::Ticket ticket = Enter(admission);
  admission.StartDraining();
  EXPECT_TRUE(ticket.Reserve(10).ok());
}

TEST(AdmissionTest, AwaitIdle) {
  Admission admission(100, 1000);
  EXPECT_TRUE(admission.AwaitIdle(absl::ZeroDuration()));
  auto ticket = std::make_unique<Admission::Ticket>(Enter(admission));
  EXPECT_FALSE(admission.AwaitIdle(absl::ZeroDuration()));
  EXPECT_FALSE(admission.AwaitIdle(absl::Milliseconds(1)));
  std::future<bool> idle = std::async(std::launch::async, [&] { return admission.AwaitIdle(kForever); });
  ticket.reset();
  EXPECT_TRUE(idle.get());
}

TEST(AdmissionTest, ManyThreadsNeverHoldMoreThanTheBudgetAndGiveAllBack) {
  constexpr int64_t kBudget = 100;
  Admission admission(kBudget, 1000);
  std::atomic<int64_t> held = 0, refused = 0;
  const auto call = [&](int64_t bytes) {
    Admission::Ticket ticket = Enter(admission);
    if (!ticket.Reserve(bytes).ok()) {
      ++refused;
      return;
    }
    EXPECT_LE(held += bytes, kBudget);
    EXPECT_LE(admission.load().bytes, kBudget);
    held -= bytes;  // before the ticket goes
  };
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&call, t] {
      for (int i = 0; i < 2000; ++i) call(20 + 10 * t);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LT(refused, 4 * 2000);
  EXPECT_TRUE(admission.AwaitIdle(absl::ZeroDuration()));
  ExpectLoad(admission, 0, 0);
}

}  // namespace
}  // namespace lossd
