# terraform test: what is computed, without AWS. The resources are applied for real, to an S3 server, by
# dev/check-deploy.

mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = {
      partition = "aws"
    }
  }
}

variables {
  bucket = "highwater-test"
}

run "the_bucket_is_closed_and_kept" {
  assert {
    condition     = !aws_s3_bucket.this.force_destroy
    error_message = "A bucket that is not empty must not be destroyed."
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls,
      aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls,
      aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "Nothing in the bucket may be public."
  }

  assert {
    condition = (
      jsondecode(aws_s3_bucket_policy.this.policy).Statement[0].Effect == "Deny" &&
      toset(jsondecode(aws_s3_bucket_policy.this.policy).Statement[0].Resource)
      == toset(["arn:aws:s3:::highwater-test", "arn:aws:s3:::highwater-test/*"])
    )
    error_message = "Bucket and objects are for encrypted connections only."
  }

  assert {
    condition     = length(aws_s3_bucket_lifecycle_configuration.this.rule) == 1
    error_message = "Results are kept unless it is said for how long."
  }
}

run "results_expire_when_asked_for" {
  variables {
    expire_output_after_days = 30
  }

  assert {
    condition = anytrue([
      for rule in aws_s3_bucket_lifecycle_configuration.this.rule :
      try(rule.expiration[0].days == 30 && rule.filter[0].prefix == "output/", false)
    ])
    error_message = "Only results may expire, never the state."
  }
}

run "names_that_no_bucket_can_have_are_refused" {
  command = plan

  variables {
    bucket = "Highwater_Test"
  }

  expect_failures = [var.bucket]
}

run "half_days_are_refused" {
  command = plan

  variables {
    expire_output_after_days = 0.5
  }

  expect_failures = [var.expire_output_after_days]
}
