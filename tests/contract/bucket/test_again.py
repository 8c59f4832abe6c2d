"""Tests of what a registry does, once more with its store in a bucket.

Those are left out that look into the store's folder, or at layouts.
"""

from __future__ import annotations

from tests.contract.test_collect import (
    impatient,
    test_blob_that_is_leased_is_not_collected,
    test_dead_object_stays_for_the_read_window_and_its_tombstone_until_no_upload_is_that_old,
    test_image_without_its_tag_goes_with_all_that_it_held,
    test_import_of_the_same_image_after_its_collection_is_whole,
    test_import_that_relies_on_a_blob_which_is_collected_meanwhile_writes_it_again,
    test_listing_that_fails_or_is_empty_deletes_nothing,
    test_what_another_image_shares_stays,
    with_lifetimes,
)
from tests.contract.test_ingest import (
    test_batches_are_cut_and_all_go_in,
    test_import_again_writes_no_row_and_copies_no_byte,
    test_multi_platform_index_has_its_children,
    test_same_digest_in_two_repositories_is_stored_once,
    test_sha512_digests_are_taken,
    test_single_image_is_committed_whole,
    test_tar_and_directory_give_the_same_rows,
)
from tests.contract.test_ingest_faults import (
    faulty,
    test_bytes_spoilt_on_their_way_are_left_out,
    test_other_writer_comes_first_while_a_publish_is_delayed,
    test_store_that_fails_takes_nothing_in_and_the_next_import_all,
)
from tests.contract.test_one_effect import (
    test_commit_that_is_run_twice_has_one_effect_and_one_answer,
)

__all__ = [
    "faulty",
    "impatient",
    "test_batches_are_cut_and_all_go_in",
    "test_blob_that_is_leased_is_not_collected",
    "test_bytes_spoilt_on_their_way_are_left_out",
    "test_commit_that_is_run_twice_has_one_effect_and_one_answer",
    "test_dead_object_stays_for_the_read_window_and_its_tombstone_until_no_upload_is_that_old",
    "test_image_without_its_tag_goes_with_all_that_it_held",
    "test_import_again_writes_no_row_and_copies_no_byte",
    "test_import_of_the_same_image_after_its_collection_is_whole",
    "test_import_that_relies_on_a_blob_which_is_collected_meanwhile_writes_it_again",
    "test_listing_that_fails_or_is_empty_deletes_nothing",
    "test_multi_platform_index_has_its_children",
    "test_other_writer_comes_first_while_a_publish_is_delayed",
    "test_same_digest_in_two_repositories_is_stored_once",
    "test_sha512_digests_are_taken",
    "test_single_image_is_committed_whole",
    "test_store_that_fails_takes_nothing_in_and_the_next_import_all",
    "test_tar_and_directory_give_the_same_rows",
    "test_what_another_image_shares_stays",
    "with_lifetimes",
]
